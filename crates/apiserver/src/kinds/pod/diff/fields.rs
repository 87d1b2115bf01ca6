//! The fields of upstream's internal pod structs, in their order. A flat table.
#![cfg_attr(rustfmt, rustfmt_skip)]

use super::dump::{Field, Shape::*, field};

pub const POD_SPEC: &[Field] = &[
    field("Volumes", "volumes", List(VOLUME)), field("InitContainers", "initContainers", List(CONTAINER)),
    field("Containers", "containers", List(CONTAINER)), field("EphemeralContainers", "ephemeralContainers", List(EPHEMERAL_CONTAINER)),
    field("RestartPolicy", "restartPolicy", Text), field("TerminationGracePeriodSeconds", "terminationGracePeriodSeconds", Pointer),
    field("ActiveDeadlineSeconds", "activeDeadlineSeconds", Pointer), field("DNSPolicy", "dnsPolicy", Text),
    field("NodeSelector", "nodeSelector", Pointer), field("ServiceAccountName", "serviceAccountName", Text),
    field("AutomountServiceAccountToken", "automountServiceAccountToken", Pointer), field("NodeName", "nodeName", Text),
    field("SecurityContext", "securityContext", Struct(POD_SECURITY_CONTEXT)), field("ImagePullSecrets", "imagePullSecrets", List(LOCAL_REFERENCE)),
    field("Hostname", "hostname", Text), field("Subdomain", "subdomain", Text), field("SetHostnameAsFQDN", "setHostnameAsFQDN", Pointer),
    field("Affinity", "affinity", Struct(AFFINITY)), field("SchedulerName", "schedulerName", Text),
    field("Tolerations", "tolerations", List(TOLERATION)), field("HostAliases", "hostAliases", List(HOST_ALIAS)),
    field("PriorityClassName", "priorityClassName", Text), field("Priority", "priority", Pointer), field("PreemptionPolicy", "preemptionPolicy", Pointer),
    field("DNSConfig", "dnsConfig", Struct(DNS_CONFIG)), field("ReadinessGates", "readinessGates", List(&[field("ConditionType", "conditionType", Text)])),
    field("RuntimeClassName", "runtimeClassName", Pointer), field("Overhead", "overhead", Pointer), field("EnableServiceLinks", "enableServiceLinks", Pointer),
    field("TopologySpreadConstraints", "topologySpreadConstraints", List(SPREAD)), field("OS", "os", Struct(&[field("Name", "name", Text)])),
    field("SchedulingGates", "schedulingGates", List(&[field("Name", "name", Text)])), field("ResourceClaims", "resourceClaims", List(POD_CLAIM)),
    field("Resources", "resources", Struct(RESOURCES)), field("HostnameOverride", "hostnameOverride", Pointer), field("WorkloadRef", "workloadRef", Struct(WORKLOAD)),
];

const POD_CLAIM: &[Field] = &[
    field("Name", "name", Text), field("ResourceClaimName", "resourceClaimName", Pointer), field("ResourceClaimTemplateName", "resourceClaimTemplateName", Pointer),
];

const WORKLOAD: &[Field] = &[field("Name", "name", Text), field("PodGroup", "podGroup", Text), field("PodGroupReplicaKey", "podGroupReplicaKey", Text)];
const LOCAL_REFERENCE: &[Field] = &[field("Name", "name", Text)];
const HOST_ALIAS: &[Field] = &[field("IP", "ip", Text), field("Hostnames", "hostnames", Pointer)];

const DNS_CONFIG: &[Field] = &[
    field("Nameservers", "nameservers", Pointer), field("Searches", "searches", Pointer),
    field("Options", "options", List(&[field("Name", "name", Text), field("Value", "value", Pointer)])),
];

const TOLERATION: &[Field] = &[
    field("Key", "key", Text), field("Operator", "operator", Text), field("Value", "value", Text), field("Effect", "effect", Text),
    field("TolerationSeconds", "tolerationSeconds", Pointer),
];

const SPREAD: &[Field] = &[
    field("MaxSkew", "maxSkew", Number), field("TopologyKey", "topologyKey", Text), field("WhenUnsatisfiable", "whenUnsatisfiable", Text),
    field("LabelSelector", "labelSelector", Pointer), field("MinDomains", "minDomains", Pointer), field("NodeAffinityPolicy", "nodeAffinityPolicy", Pointer),
    field("NodeTaintsPolicy", "nodeTaintsPolicy", Pointer), field("MatchLabelKeys", "matchLabelKeys", Pointer),
];

const AFFINITY: &[Field] = &[
    field("NodeAffinity", "nodeAffinity", Struct(NODE_AFFINITY)), field("PodAffinity", "podAffinity", Struct(POD_AFFINITY)),
    field("PodAntiAffinity", "podAntiAffinity", Struct(POD_AFFINITY)),
];

const NODE_AFFINITY: &[Field] = &[
    field("RequiredDuringSchedulingIgnoredDuringExecution", "requiredDuringSchedulingIgnoredDuringExecution",
        Struct(&[field("NodeSelectorTerms", "nodeSelectorTerms", List(NODE_TERM))])),
    field("PreferredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution",
        List(&[field("Weight", "weight", Number), field("Preference", "preference", Nested(NODE_TERM))])),
];

const NODE_TERM: &[Field] = &[field("MatchExpressions", "matchExpressions", List(NODE_REQUIREMENT)), field("MatchFields", "matchFields", List(NODE_REQUIREMENT))];
const NODE_REQUIREMENT: &[Field] = &[field("Key", "key", Text), field("Operator", "operator", Text), field("Values", "values", Pointer)];

const POD_AFFINITY: &[Field] = &[
    field("RequiredDuringSchedulingIgnoredDuringExecution", "requiredDuringSchedulingIgnoredDuringExecution", List(POD_TERM)),
    field("PreferredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution",
        List(&[field("Weight", "weight", Number), field("PodAffinityTerm", "podAffinityTerm", Nested(POD_TERM))])),
];

const POD_TERM: &[Field] = &[
    field("LabelSelector", "labelSelector", Pointer), field("Namespaces", "namespaces", Pointer), field("TopologyKey", "topologyKey", Text),
    field("NamespaceSelector", "namespaceSelector", Pointer), field("MatchLabelKeys", "matchLabelKeys", Pointer),
    field("MismatchLabelKeys", "mismatchLabelKeys", Pointer),
];

const POD_SECURITY_CONTEXT: &[Field] = &[
    field("HostNetwork", "hostNetwork", Flag), field("HostPID", "hostPID", Flag), field("HostIPC", "hostIPC", Flag),
    field("ShareProcessNamespace", "shareProcessNamespace", Pointer), field("HostUsers", "hostUsers", Pointer), field("SELinuxOptions", "seLinuxOptions", Struct(SELINUX)),
    field("WindowsOptions", "windowsOptions", Struct(WINDOWS)), field("RunAsUser", "runAsUser", Pointer), field("RunAsGroup", "runAsGroup", Pointer),
    field("RunAsNonRoot", "runAsNonRoot", Pointer), field("SupplementalGroups", "supplementalGroups", Pointer),
    field("SupplementalGroupsPolicy", "supplementalGroupsPolicy", Pointer), field("FSGroup", "fsGroup", Pointer),
    field("Sysctls", "sysctls", List(&[field("Name", "name", Text), field("Value", "value", Text)])), field("FSGroupChangePolicy", "fsGroupChangePolicy", Pointer),
    field("SeccompProfile", "seccompProfile", Struct(PROFILE)), field("AppArmorProfile", "appArmorProfile", Struct(PROFILE)),
    field("SELinuxChangePolicy", "seLinuxChangePolicy", Pointer),
];

const SELINUX: &[Field] = &[field("User", "user", Text), field("Role", "role", Text), field("Type", "type", Text), field("Level", "level", Text)];
const PROFILE: &[Field] = &[field("Type", "type", Text), field("LocalhostProfile", "localhostProfile", Pointer)];
const WINDOWS: &[Field] = &[
    field("GMSACredentialSpecName", "gmsaCredentialSpecName", Pointer), field("GMSACredentialSpec", "gmsaCredentialSpec", Pointer),
    field("RunAsUserName", "runAsUserName", Pointer), field("HostProcess", "hostProcess", Pointer),
];

pub const CONTAINER: &[Field] = &[
    field("Name", "name", Text), field("Image", "image", Text), field("Command", "command", Pointer), field("Args", "args", Pointer),
    field("WorkingDir", "workingDir", Text), field("Ports", "ports", List(PORT)), field("EnvFrom", "envFrom", List(ENV_FROM)), field("Env", "env", List(ENV)),
    field("Resources", "resources", Nested(RESOURCES)), field("ResizePolicy", "resizePolicy", List(RESIZE)), field("RestartPolicy", "restartPolicy", Pointer),
    field("RestartPolicyRules", "restartPolicyRules", List(RESTART_RULE)), field("VolumeMounts", "volumeMounts", List(MOUNT)),
    field("VolumeDevices", "volumeDevices", List(&[field("Name", "name", Text), field("DevicePath", "devicePath", Text)])),
    field("LivenessProbe", "livenessProbe", Struct(PROBE)), field("ReadinessProbe", "readinessProbe", Struct(PROBE)),
    field("StartupProbe", "startupProbe", Struct(PROBE)), field("Lifecycle", "lifecycle", Struct(LIFECYCLE)),
    field("TerminationMessagePath", "terminationMessagePath", Text), field("TerminationMessagePolicy", "terminationMessagePolicy", Text),
    field("ImagePullPolicy", "imagePullPolicy", Text), field("SecurityContext", "securityContext", Struct(SECURITY_CONTEXT)),
    field("Stdin", "stdin", Flag), field("StdinOnce", "stdinOnce", Flag), field("TTY", "tty", Flag),
];

pub const EPHEMERAL_CONTAINER: &[Field] = &[
    field("Name", "name", Text), field("Image", "image", Text), field("Command", "command", Pointer), field("Args", "args", Pointer),
    field("WorkingDir", "workingDir", Text), field("Ports", "ports", List(PORT)), field("EnvFrom", "envFrom", List(ENV_FROM)), field("Env", "env", List(ENV)),
    field("Resources", "resources", Nested(RESOURCES)), field("ResizePolicy", "resizePolicy", List(RESIZE)), field("RestartPolicy", "restartPolicy", Pointer),
    field("RestartPolicyRules", "restartPolicyRules", List(RESTART_RULE)), field("VolumeMounts", "volumeMounts", List(MOUNT)),
    field("VolumeDevices", "volumeDevices", List(&[field("Name", "name", Text), field("DevicePath", "devicePath", Text)])),
    field("LivenessProbe", "livenessProbe", Struct(PROBE)), field("ReadinessProbe", "readinessProbe", Struct(PROBE)),
    field("StartupProbe", "startupProbe", Struct(PROBE)), field("Lifecycle", "lifecycle", Struct(LIFECYCLE)),
    field("TerminationMessagePath", "terminationMessagePath", Text), field("TerminationMessagePolicy", "terminationMessagePolicy", Text),
    field("ImagePullPolicy", "imagePullPolicy", Text), field("SecurityContext", "securityContext", Struct(SECURITY_CONTEXT)),
    field("Stdin", "stdin", Flag), field("StdinOnce", "stdinOnce", Flag), field("TTY", "tty", Flag), field("TargetContainerName", "targetContainerName", Text),
];

const PORT: &[Field] = &[
    field("Name", "name", Text), field("HostPort", "hostPort", Number), field("ContainerPort", "containerPort", Number), field("Protocol", "protocol", Text),
    field("HostIP", "hostIP", Text),
];

const ENV_FROM: &[Field] = &[
    field("Prefix", "prefix", Text), field("ConfigMapRef", "configMapRef", Struct(OPTIONAL_REFERENCE)), field("SecretRef", "secretRef", Struct(OPTIONAL_REFERENCE)),
];
const OPTIONAL_REFERENCE: &[Field] = &[field("Name", "name", Text), field("Optional", "optional", Pointer)];

const ENV: &[Field] = &[field("Name", "name", Text), field("Value", "value", Text), field("ValueFrom", "valueFrom", Struct(ENV_SOURCE))];
const ENV_SOURCE: &[Field] = &[
    field("FieldRef", "fieldRef", Struct(FIELD_REFERENCE)), field("ResourceFieldRef", "resourceFieldRef", Struct(RESOURCE_REFERENCE)),
    field("ConfigMapKeyRef", "configMapKeyRef", Struct(KEY_REFERENCE)), field("SecretKeyRef", "secretKeyRef", Struct(KEY_REFERENCE)),
    field("FileKeyRef", "fileKeyRef", Struct(FILE_REFERENCE)),
];
const FIELD_REFERENCE: &[Field] = &[field("APIVersion", "apiVersion", Text), field("FieldPath", "fieldPath", Text)];
const RESOURCE_REFERENCE: &[Field] = &[field("ContainerName", "containerName", Text), field("Resource", "resource", Text), field("Divisor", "divisor", Amount)];
const KEY_REFERENCE: &[Field] = &[field("Name", "name", Text), field("Key", "key", Text), field("Optional", "optional", Pointer)];
const FILE_REFERENCE: &[Field] = &[
    field("VolumeName", "volumeName", Text), field("Path", "path", Text), field("Key", "key", Text), field("Optional", "optional", Pointer),
];

const RESOURCES: &[Field] = &[
    field("Limits", "limits", Pointer), field("Requests", "requests", Pointer),
    field("Claims", "claims", List(&[field("Name", "name", Text), field("Request", "request", Text)])),
];
const RESIZE: &[Field] = &[field("ResourceName", "resourceName", Text), field("RestartPolicy", "restartPolicy", Text)];
const RESTART_RULE: &[Field] = &[
    field("Action", "action", Text),
    field("ExitCodes", "exitCodes", Struct(&[field("Operator", "operator", Text), field("Values", "values", Pointer)])),
];

const MOUNT: &[Field] = &[
    field("Name", "name", Text), field("ReadOnly", "readOnly", Flag), field("RecursiveReadOnly", "recursiveReadOnly", Pointer),
    field("MountPath", "mountPath", Text), field("SubPath", "subPath", Text), field("MountPropagation", "mountPropagation", Pointer),
    field("SubPathExpr", "subPathExpr", Text),
];

const PROBE: &[Field] = &[
    field("Exec", "exec", Struct(EXEC)), field("HTTPGet", "httpGet", Struct(HTTP)), field("TCPSocket", "tcpSocket", Struct(TCP)),
    field("GRPC", "grpc", Struct(&[field("Port", "port", Number), field("Service", "service", Pointer)])),
    field("InitialDelaySeconds", "initialDelaySeconds", Number), field("TimeoutSeconds", "timeoutSeconds", Number),
    field("PeriodSeconds", "periodSeconds", Number), field("SuccessThreshold", "successThreshold", Number),
    field("FailureThreshold", "failureThreshold", Number), field("TerminationGracePeriodSeconds", "terminationGracePeriodSeconds", Pointer),
];
const LIFECYCLE: &[Field] = &[
    field("PostStart", "postStart", Struct(HOOK)), field("PreStop", "preStop", Struct(HOOK)), field("StopSignal", "stopSignal", Pointer),
];
const HOOK: &[Field] = &[
    field("Exec", "exec", Struct(EXEC)), field("HTTPGet", "httpGet", Struct(HTTP)), field("TCPSocket", "tcpSocket", Struct(TCP)),
    field("Sleep", "sleep", Struct(&[field("Seconds", "seconds", Number)])),
];
const EXEC: &[Field] = &[field("Command", "command", Pointer)];
const HTTP: &[Field] = &[
    field("Path", "path", Text), field("Port", "port", NumberOrText), field("Host", "host", Text), field("Scheme", "scheme", Text),
    field("HTTPHeaders", "httpHeaders", List(&[field("Name", "name", Text), field("Value", "value", Text)])),
];
const TCP: &[Field] = &[field("Port", "port", NumberOrText), field("Host", "host", Text)];

const SECURITY_CONTEXT: &[Field] = &[
    field("Capabilities", "capabilities", Struct(&[field("Add", "add", Pointer), field("Drop", "drop", Pointer)])), field("Privileged", "privileged", Pointer),
    field("SELinuxOptions", "seLinuxOptions", Struct(SELINUX)), field("WindowsOptions", "windowsOptions", Struct(WINDOWS)),
    field("RunAsUser", "runAsUser", Pointer), field("RunAsGroup", "runAsGroup", Pointer), field("RunAsNonRoot", "runAsNonRoot", Pointer),
    field("ReadOnlyRootFilesystem", "readOnlyRootFilesystem", Pointer), field("AllowPrivilegeEscalation", "allowPrivilegeEscalation", Pointer),
    field("ProcMount", "procMount", Pointer), field("SeccompProfile", "seccompProfile", Struct(PROFILE)), field("AppArmorProfile", "appArmorProfile", Struct(PROFILE)),
];

const VOLUME: &[Field] = &[
    field("Name", "name", Text), field("HostPath", "hostPath", Struct(&[field("Path", "path", Text), field("Type", "type", Pointer)])),
    field("EmptyDir", "emptyDir", Struct(&[field("Medium", "medium", Text), field("SizeLimit", "sizeLimit", Pointer)])),
    field("GCEPersistentDisk", "gcePersistentDisk", Pointer), field("AWSElasticBlockStore", "awsElasticBlockStore", Pointer), field("GitRepo", "gitRepo", Pointer),
    field("Secret", "secret", Struct(&[
        field("SecretName", "secretName", Text), field("Items", "items", List(KEY_TO_PATH)), field("DefaultMode", "defaultMode", Pointer), field("Optional", "optional", Pointer),
    ])),
    field("NFS", "nfs", Struct(&[field("Server", "server", Text), field("Path", "path", Text), field("ReadOnly", "readOnly", Flag)])),
    field("ISCSI", "iscsi", Pointer), field("Glusterfs", "glusterfs", Pointer),
    field("PersistentVolumeClaim", "persistentVolumeClaim", Struct(&[field("ClaimName", "claimName", Text), field("ReadOnly", "readOnly", Flag)])),
    field("RBD", "rbd", Pointer), field("Quobyte", "quobyte", Pointer), field("FlexVolume", "flexVolume", Pointer), field("Cinder", "cinder", Pointer),
    field("CephFS", "cephfs", Pointer), field("Flocker", "flocker", Pointer),
    field("DownwardAPI", "downwardAPI", Struct(&[field("Items", "items", List(DOWNWARD_FILE)), field("DefaultMode", "defaultMode", Pointer)])),
    field("FC", "fc", Pointer), field("AzureFile", "azureFile", Pointer),
    field("ConfigMap", "configMap", Struct(&[
        field("Name", "name", Text), field("Items", "items", List(KEY_TO_PATH)), field("DefaultMode", "defaultMode", Pointer), field("Optional", "optional", Pointer),
    ])),
    field("VsphereVolume", "vsphereVolume", Pointer), field("AzureDisk", "azureDisk", Pointer), field("PhotonPersistentDisk", "photonPersistentDisk", Pointer),
    field("Projected", "projected", Struct(&[field("Sources", "sources", List(PROJECTION)), field("DefaultMode", "defaultMode", Pointer)])),
    field("PortworxVolume", "portworxVolume", Pointer), field("ScaleIO", "scaleIO", Pointer), field("StorageOS", "storageos", Pointer),
    field("CSI", "csi", Struct(&[
        field("Driver", "driver", Text), field("ReadOnly", "readOnly", Pointer), field("FSType", "fsType", Pointer),
        field("VolumeAttributes", "volumeAttributes", Pointer), field("NodePublishSecretRef", "nodePublishSecretRef", Struct(LOCAL_REFERENCE)),
    ])),
    field("Ephemeral", "ephemeral", Pointer),
    field("Image", "image", Struct(&[field("Reference", "reference", Text), field("PullPolicy", "pullPolicy", Text)])),
];

const KEY_TO_PATH: &[Field] = &[field("Key", "key", Text), field("Path", "path", Text), field("Mode", "mode", Pointer)];
const DOWNWARD_FILE: &[Field] = &[
    field("Path", "path", Text), field("FieldRef", "fieldRef", Struct(FIELD_REFERENCE)), field("ResourceFieldRef", "resourceFieldRef", Struct(RESOURCE_REFERENCE)),
    field("Mode", "mode", Pointer),
];

const PROJECTION: &[Field] = &[
    field("Secret", "secret", Struct(KEYED)), field("DownwardAPI", "downwardAPI", Struct(&[field("Items", "items", List(DOWNWARD_FILE))])),
    field("ConfigMap", "configMap", Struct(KEYED)),
    field("ServiceAccountToken", "serviceAccountToken", Struct(&[
        field("Audience", "audience", Text), field("ExpirationSeconds", "expirationSeconds", Number), field("Path", "path", Text),
    ])),
    field("ClusterTrustBundle", "clusterTrustBundle", Struct(&[
        field("Name", "name", Pointer), field("SignerName", "signerName", Pointer), field("LabelSelector", "labelSelector", Pointer),
        field("Optional", "optional", Pointer), field("Path", "path", Text),
    ])),
    field("PodCertificate", "podCertificate", Pointer),
];
const KEYED: &[Field] = &[field("Name", "name", Text), field("Items", "items", List(KEY_TO_PATH)), field("Optional", "optional", Pointer)];

