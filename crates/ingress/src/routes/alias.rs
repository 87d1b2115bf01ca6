//! ExternalName: a Service that is another name. One of the cluster's leads to that Service, any other to the addresses that it resolves to.

use std::net::IpAddr;

use service_model::ObjectKey;

/// Longer chains of aliases are not followed, as in DNS.
pub(super) const MAX_ALIASES: usize = 8;

/// Where an ExternalName leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Alias {
    /// To a Service of the cluster, whose name the machine's resolver may not know.
    Service(ObjectKey),
    /// To whatever the name resolves to.
    Name(Box<str>),
}

impl Alias {
    /// Reads `spec.externalName`; `domain` is the cluster's.
    pub fn parse(name: &str, domain: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let own = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix(".svc."));
        match own.and_then(|own| own.split_once('.')) {
            Some((service, namespace)) if !namespace.contains('.') => {
                Alias::Service(ObjectKey::new(namespace, service))
            }
            Some(_) | None => Alias::Name(name.into()),
        }
    }
}

/// Whether an address that a name resolved to may be asked: whoever may make a Service must not reach the ingress' own machine or its
/// cloud's metadata by it.
pub(super) fn may_be_asked(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_are_told_from_others() {
        let service = |namespace: &str, name: &str| Alias::Service(ObjectKey::new(namespace, name));
        for (name, alias) in [
            ("web.shop.svc.cluster.local", service("shop", "web")),
            ("Web.Shop.svc.cluster.local.", service("shop", "web")),
            ("example.com", Alias::Name("example.com".into())),
            ("a.web.shop.svc.cluster.local", Alias::Name("a.web.shop.svc.cluster.local".into())),
            ("web.shop.svc.other.local", Alias::Name("web.shop.svc.other.local".into())),
            ("xcluster.local", Alias::Name("xcluster.local".into())),
        ] {
            assert_eq!(Alias::parse(name, "cluster.local"), alias, "{name}");
        }
    }

    #[test]
    fn the_machine_itself_is_not_asked() {
        for (address, may) in [
            ("192.0.2.1", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(may_be_asked(&address.parse().unwrap()), may, "{address}");
        }
    }
}
