//! A KubeProxyConfiguration, kube-proxy's own configuration file: what of it applies here, and a word about what does not.
//!
//! Files that `kubeadm` writes hold every field with its zero value. So only a field that says something is worth a warning, and one that
//! nobody knows is an error, as upstream's strict decoding has it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;

use crate::config::NodePortAddresses;
use crate::layout::PodInterface;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const HEALTH_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Why a file was refused. All faults of a file are in one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    #[error("not a KubeProxyConfiguration: apiVersion is `{api_version}` and kind is `{kind}`")]
    Kind { api_version: String, kind: String },
    #[error("{}", .0.join("\n"))]
    Fields(Vec<String>),
}

/// Which clients are pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Local {
    /// Those in the ranges of all pods, as far as they are known.
    #[default]
    ClusterCidr,
    /// Those in the ranges that the Node object gives to this node.
    NodeCidr,
    /// Those behind these interfaces.
    Interface(PodInterface),
}

/// What a file asks for. What it leaves out is `None` or upstream's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub kubeconfig: Option<String>,
    pub node_name: Option<String>,
    pub local: Local,
    pub cluster_cidrs: Vec<IpNet>,
    pub masquerade_all: bool,
    pub node_port_addresses: NodePortAddresses,
    pub health: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// Kernel parameters of connection tracking, to be set at start.
    pub sysctls: Vec<(&'static str, u64)>,
    /// `conntrack.maxPerCore` and `conntrack.min`: their product with the number of processors needs a machine.
    pub conntrack_max: Option<ConntrackMax>,
    /// What was said and does not apply, and why.
    pub warnings: Vec<String>,
}

/// How many connections may be tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConntrackMax {
    pub per_core: u64,
    pub least: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kubeconfig: None,
            node_name: None,
            local: Local::default(),
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            health: Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), HEALTH_PORT)),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], METRICS_PORT))),
            sysctls: Vec::new(),
            conntrack_max: None,
            warnings: Vec::new(),
        }
    }
}

/// Fields that mean nothing here, by their beginning, and why.
const IDLE: [(&str, &str); 19] = [
    ("bindAddressHardFail", "nothing of ours binds node ports"),
    ("bindAddress", "the addresses of the Node object count"),
    ("clientConnection.acceptContentTypes", "the client asks for JSON"),
    ("clientConnection.contentType", "the client sends JSON"),
    ("clientConnection.qps", "a proxy asks for three watches and no more"),
    ("clientConnection.burst", "a proxy asks for three watches and no more"),
    ("configSyncPeriod", "watches are not polled"),
    ("enableProfiling", "there is no profiler"),
    ("featureGates", "there are none"),
    ("iptables.", "rules are nftables"),
    ("ipvs.", "rules are nftables"),
    ("logging.", "the environment variable PORTOLAN_LOG filters log lines"),
    ("nftables.masqueradeBit", "no bit of the packet mark is used"),
    ("nftables.minSyncPeriod", "changes are written at once"),
    ("nftables.syncPeriod", "edits by others are noticed when they happen"),
    ("oomScoreAdj", "who starts the proxy sets it"),
    ("portRange", "it has had no effect since userspace mode went"),
    ("showHiddenMetricsForVersion", "no metric is hidden"),
    ("win", "this is Linux"),
];

/// Fields of connection tracking and the kernel's parameters for them, those in seconds first.
const TIMEOUTS: [(&str, &str); 4] = [
    ("conntrack.tcpEstablishedTimeout", "net.netfilter.nf_conntrack_tcp_timeout_established"),
    ("conntrack.tcpCloseWaitTimeout", "net.netfilter.nf_conntrack_tcp_timeout_close_wait"),
    ("conntrack.udpTimeout", "net.netfilter.nf_conntrack_udp_timeout"),
    ("conntrack.udpStreamTimeout", "net.netfilter.nf_conntrack_udp_timeout_stream"),
];
const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";

impl Settings {
    /// Reads a file's document.
    ///
    /// # Errors
    /// When it is another kind of document, or fields are wrong or unknown; all of them are named.
    pub fn parse(document: &Value) -> Result<Self, SettingsError> {
        let said = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (said("apiVersion"), said("kind"));
        if api_version != API_VERSION || kind != "KubeProxyConfiguration" {
            return Err(SettingsError::Kind { api_version, kind });
        }
        let mut reader = Reader::default();
        for (path, value) in leaves(document) {
            if !matches!(path.as_str(), "apiVersion" | "kind") && says_something(value) {
                reader.field(&path, value);
            }
        }
        reader.finish()
    }
}

/// All fields that hold no further fields, by their path.
fn leaves(document: &Value) -> Vec<(String, &Value)> {
    fn below<'a>(path: &str, value: &'a Value, found: &mut Vec<(String, &'a Value)>) {
        match value.as_object() {
            Some(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    below(&path, value, found);
                }
            }
            None => found.push((path.to_owned(), value)),
        }
    }
    let mut found = Vec::new();
    below("", document, &mut found);
    found
}

/// Whether a field holds more than its zero value.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "0s" | "0.0.0.0" | "::"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[derive(Default)]
struct Reader {
    settings: Settings,
    faults: Vec<String>,
    detect: Option<String>,
    bridge: String,
    prefix: String,
}

impl Reader {
    fn field(&mut self, path: &str, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        match path {
            "clientConnection.kubeconfig" => self.settings.kubeconfig = Some(text.to_owned()),
            "hostnameOverride" => self.settings.node_name = Some(text.to_owned()),
            "clusterCIDR" => self.settings.cluster_cidrs = self.ranges(path, text.split(',')),
            "detectLocal.clusterCIDRs" => {
                let ranges = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.settings.cluster_cidrs = self.ranges(path, ranges);
            }
            "detectLocalMode" => self.detect = Some(text.to_owned()),
            "detectLocal.bridgeInterface" => self.bridge = text.to_owned(),
            "detectLocal.interfaceNamePrefix" => self.prefix = text.to_owned(),
            "nodePortAddresses" => {
                let ranges = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.settings.node_port_addresses = self.node_port_addresses(path, ranges);
            }
            "healthzBindAddress" => self.settings.health = self.address(path, text, HEALTH_PORT),
            "metricsBindAddress" => self.settings.metrics = self.address(path, text, METRICS_PORT),
            "nftables.masqueradeAll" => self.settings.masquerade_all = true,
            "mode" if text == "nftables" => {}
            "mode" => self.warn(path, text, "rules are nftables, whatever the mode"),
            _ => self.other(path, value),
        }
    }

    fn other(&mut self, path: &str, value: &Value) {
        if let Some((_, sysctl)) = TIMEOUTS.iter().find(|(field, _)| *field == path) {
            match value.as_str().and_then(seconds) {
                Some(seconds) => self.settings.sysctls.push((sysctl, seconds)),
                None => self.fault(path, value, "give a duration, such as 1h30m or 60s"),
            }
            return;
        }
        match path {
            "conntrack.tcpBeLiberal" => self.settings.sysctls.push((LIBERAL, 1)),
            "conntrack.maxPerCore" | "conntrack.min" => {
                let Some(number) = value.as_u64() else { return self.fault(path, value, "give a number") };
                let max = self.settings.conntrack_max.get_or_insert(ConntrackMax { per_core: 0, least: 0 });
                if path == "conntrack.min" { max.least = number } else { max.per_core = number }
            }
            _ => match IDLE.iter().find(|(field, _)| path == *field || path.starts_with(&stem(field))) {
                Some((_, why)) => self.warn(path, &shown(value), why),
                None => self.fault(path, value, "there is no such field"),
            },
        }
    }

    fn warn(&mut self, path: &str, value: &str, why: &str) {
        self.settings.warnings.push(format!("`{path}: {value}` does not apply: {why}"));
    }

    fn fault(&mut self, path: &str, value: &Value, why: &str) {
        self.faults.push(format!("`{path}: {}`: {why}", shown(value)));
    }

    fn ranges<'a>(&mut self, path: &str, texts: impl Iterator<Item = &'a str>) -> Vec<IpNet> {
        let mut ranges = Vec::new();
        for text in texts.map(str::trim) {
            match text.parse::<IpNet>() {
                Ok(range) => ranges.push(range.trunc()),
                Err(_) => self.fault(path, &text.into(), "give ranges, such as 10.244.0.0/16"),
            }
        }
        ranges
    }

    fn node_port_addresses<'a>(&mut self, path: &str, texts: impl Iterator<Item = &'a str>) -> NodePortAddresses {
        let texts: Vec<&str> = texts.collect();
        if texts == ["primary"] {
            return NodePortAddresses::Primary;
        }
        NodePortAddresses::Ranges(self.ranges(path, texts.into_iter()))
    }

    /// An address with or without its port.
    fn address(&mut self, path: &str, text: &str, port: u16) -> Option<SocketAddr> {
        let address = parse_bind_address(text, port);
        if address.is_none() {
            self.fault(path, &text.into(), "give ADDRESS:PORT");
        }
        address
    }

    /// Linux names interfaces with at most 15 bytes.
    fn interface(&mut self, mode: &str, path: &str, name: &str, by: fn(String) -> PodInterface) {
        match name.len() {
            0 => self.fault("detectLocalMode", &mode.into(), &format!("it needs `{path}`")),
            1..16 => self.settings.local = Local::Interface(by(name.to_owned())),
            _ => self.fault(path, &name.into(), "no interface has so long a name"),
        }
    }

    fn finish(mut self) -> Result<Settings, SettingsError> {
        match self.detect.take().as_deref() {
            None | Some("ClusterCIDR") => {}
            Some("NodeCIDR") => self.settings.local = Local::NodeCidr,
            Some(mode @ "BridgeInterface") => {
                let name = std::mem::take(&mut self.bridge);
                self.interface(mode, "detectLocal.bridgeInterface", &name, PodInterface::Named);
            }
            Some(mode @ "InterfaceNamePrefix") => {
                let prefix = std::mem::take(&mut self.prefix);
                self.interface(mode, "detectLocal.interfaceNamePrefix", &prefix, PodInterface::Prefixed);
            }
            Some(mode) => self.fault(
                "detectLocalMode",
                &mode.into(),
                "it is ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
            ),
        }
        if self.faults.is_empty() { Ok(self.settings) } else { Err(SettingsError::Fields(self.faults)) }
    }
}

/// What a field's name in [`IDLE`] begins paths with: groups end in a point, `win` begins several names, others may hold fields.
fn stem(field: &str) -> String {
    if field.ends_with('.') || field == "win" { field.to_owned() } else { format!("{field}.") }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `ADDRESS:PORT`, `ADDRESS` with the usual port, or `:PORT` on all addresses.
pub fn parse_bind_address(text: &str, port: u16) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().ok()?));
    }
    let address: Option<IpAddr> = text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    text.parse().ok().or_else(|| Some(SocketAddr::new(address?, port)))
}

/// Go's durations, down to whole seconds: `1h30m`, `60s`, `500ms`.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match rest.get(..unit)? {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = rest.get(unit..)?;
    }
    (!text.is_empty()).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(fields: Value) -> Value {
        let mut document = json!({"apiVersion": API_VERSION, "kind": "KubeProxyConfiguration"});
        document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        document
    }

    #[test]
    fn what_kubeadm_writes_says_nothing_that_does_not_apply() {
        let document = file(json!({
            "bindAddress": "0.0.0.0", "bindAddressHardFail": false, "clusterCIDR": "10.244.0.0/16,fd00::/64",
            "clientConnection": {"acceptContentTypes": "", "burst": 0, "contentType": "", "kubeconfig": "/k.conf", "qps": 0},
            "configSyncPeriod": "0s", "conntrack": {"maxPerCore": null, "min": null, "tcpBeLiberal": false, "udpTimeout": "0s"},
            "detectLocal": {"bridgeInterface": "", "interfaceNamePrefix": ""}, "detectLocalMode": "", "enableProfiling": false,
            "healthzBindAddress": "", "hostnameOverride": "", "iptables": {"masqueradeAll": false, "syncPeriod": "0s"},
            "ipvs": {"excludeCIDRs": null}, "logging": {"options": {"json": {"infoBufferSize": "0"}}, "verbosity": 0}, "mode": "",
            "nodePortAddresses": null, "winkernel": {"enableDSR": false},
        }));
        let settings = Settings::parse(&document);
        // The one field of text whose zero is "0".
        assert_eq!(settings.as_ref().unwrap().warnings.len(), 1, "{settings:?}");
        let expected = Settings {
            kubeconfig: Some("/k.conf".into()),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
            warnings: settings.as_ref().unwrap().warnings.clone(),
            ..Settings::default()
        };
        assert_eq!(settings, Ok(expected));
    }

    #[test]
    fn what_applies_is_taken_and_what_does_not_is_said() {
        let settings = Settings::parse(&file(json!({
            "mode": "ipvs", "ipvs": {"scheduler": "rr"}, "detectLocalMode": "NodeCIDR", "nodePortAddresses": ["192.0.2.0/24"],
            "healthzBindAddress": "127.0.0.1", "metricsBindAddress": ":9999", "nftables": {"masqueradeAll": true},
            "conntrack": {"tcpEstablishedTimeout": "1h30m", "maxPerCore": 1000, "min": 2000}, "hostnameOverride": "n1",
        })))
        .unwrap();
        assert_eq!(settings.local, Local::NodeCidr);
        assert_eq!(settings.node_name.as_deref(), Some("n1"));
        assert_eq!(settings.node_port_addresses, NodePortAddresses::Ranges(vec!["192.0.2.0/24".parse().unwrap()]));
        assert_eq!(settings.health, "127.0.0.1:10256".parse().ok());
        assert_eq!(settings.metrics, "[::]:9999".parse().ok());
        assert!(settings.masquerade_all);
        assert_eq!(settings.sysctls, [("net.netfilter.nf_conntrack_tcp_timeout_established", 5400)]);
        assert_eq!(settings.conntrack_max, Some(ConntrackMax { per_core: 1000, least: 2000 }));
        assert_eq!(
            settings.warnings,
            [
                "`ipvs.scheduler: rr` does not apply: rules are nftables",
                "`mode: ipvs` does not apply: rules are nftables, whatever the mode"
            ]
        );
    }

    #[test]
    fn pods_may_be_known_by_their_interfaces() {
        let parse =
            |mode: &str, fields: Value| Settings::parse(&file(json!({"detectLocalMode": mode, "detectLocal": fields})));
        let bridge = parse("BridgeInterface", json!({"bridgeInterface": "cni0"})).unwrap();
        assert_eq!(bridge.local, Local::Interface(PodInterface::Named("cni0".into())));
        let prefix = parse("InterfaceNamePrefix", json!({"interfaceNamePrefix": "veth"})).unwrap();
        assert_eq!(prefix.local, Local::Interface(PodInterface::Prefixed("veth".into())));
        let error = parse("BridgeInterface", json!({"interfaceNamePrefix": "veth"})).unwrap_err().to_string();
        assert_eq!(error, "`detectLocalMode: BridgeInterface`: it needs `detectLocal.bridgeInterface`");
        assert!(parse("InterfaceNamePrefix", json!({"interfaceNamePrefix": "sixteen-letters!"})).is_err());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error =
            Settings::parse(&file(json!({"clusterCIDR": "10.0/8", "colour": "red", "detectLocalMode": "Guess"})));
        let text = error.unwrap_err().to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("`colour: red`: there is no such field"), "{text}");
        let other = Settings::parse(&json!({"apiVersion": "v1", "kind": "ConfigMap"}));
        assert!(matches!(other, Err(SettingsError::Kind { .. })));
    }
}
