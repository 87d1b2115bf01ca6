//! End-to-end suites: the real binary, real kubectl, real containers and kernel rules, each test on a machine of namespaces.
