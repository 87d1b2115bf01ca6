//! The files that give a pod its name and its resolver: `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Pure text. Who mounts them is the worker's business; the kubelet's wording and limits are kept, because people grep for both.

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig, PodSpec};

/// Upstream's limits: resolvers ignore more name servers, and older ones more search domains.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What the cluster and the node offer for resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsOfNode {
    /// The cluster's DNS service; empty if there is none.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub host: ResolvConf,
}

/// A resolver configuration, as resolv.conf(5) has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a node's file. Unknown lines are passed over, as every resolver does; the last `search` or `domain` counts.
    pub fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            let (key, rest) = (words.next(), words.map(str::to_owned).collect::<Vec<_>>());
            match key {
                Some("nameserver") => conf.nameservers.extend(rest.into_iter().take(1)),
                Some("search") | Some("domain") => conf.searches = rest.into_iter().map(undotted).collect(),
                Some("options") => conf.options.extend(rest),
                Some(_) | None => {}
            }
        }
        conf
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// A search domain without its final dot, as the kubelet has it; the root stays.
fn undotted(domain: String) -> String {
    match domain.strip_suffix('.') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        Some(_) | None => domain,
    }
}

/// A pod's `/etc/resolv.conf`, by its `dnsPolicy` and `dnsConfig`.
pub fn resolv_conf(pod: &Pod, node: &DnsOfNode) -> ResolvConf {
    let spec = pod.spec.as_ref();
    let on_host = spec.and_then(|s| s.host_network).unwrap_or(false);
    let cluster = match spec.and_then(|s| s.dns_policy.as_deref()) {
        Some("None") => return limited(merged(ResolvConf::default(), spec)),
        Some("Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        Some(_) | None => !on_host,
    };
    let base = if cluster && !node.cluster_dns.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let zone = &node.cluster_domain;
        let mut searches = vec![format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone.clone()];
        extend_new(&mut searches, &node.host.searches);
        ResolvConf { nameservers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        node.host.clone()
    };
    limited(merged(base, spec))
}

fn merged(mut base: ResolvConf, spec: Option<&PodSpec>) -> ResolvConf {
    let Some(PodDNSConfig { nameservers, searches, options }) = spec.and_then(|s| s.dns_config.as_ref()) else {
        return base;
    };
    extend_new(&mut base.nameservers, nameservers.as_deref().unwrap_or_default());
    extend_new(&mut base.searches, searches.as_deref().unwrap_or_default());
    for option in options.iter().flatten() {
        let Some(name) = option.name.as_deref() else { continue };
        let text = match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        match base.options.iter_mut().find(|o| o.split(':').next() == Some(name)) {
            Some(existing) => *existing = text,
            None => base.options.push(text),
        }
    }
    base
}

fn extend_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn limited(mut conf: ResolvConf) -> ResolvConf {
    conf.nameservers.truncate(MAX_NAMESERVERS);
    conf.searches.truncate(MAX_SEARCHES);
    while conf.searches.join(" ").len() > MAX_SEARCH_CHARS {
        conf.searches.pop();
    }
    conf
}

/// What a pod calls itself: its host name, and with a `subdomain` the domain it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub hostname: String,
    pub domain: Option<String>,
    /// What the kernel is told: the fully qualified name with `setHostnameAsFQDN`.
    pub kernel: String,
}

/// The names of a pod; one on the host's network has the host's.
pub fn names(pod: &Pod, cluster_domain: &str, node_name: &str) -> Names {
    let spec = pod.spec.as_ref();
    let given = |text: Option<&String>| text.filter(|t| !t.is_empty()).cloned();
    if let Some(name) = given(spec.and_then(|s| s.hostname_override.as_ref())) {
        return Names { hostname: name.clone(), domain: None, kernel: name };
    }
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        return Names { hostname: node_name.to_owned(), domain: None, kernel: node_name.to_owned() };
    }
    let own = || truncated(pod.metadata.name.as_deref().unwrap_or_default());
    let hostname = given(spec.and_then(|s| s.hostname.as_ref())).unwrap_or_else(own);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = given(spec.and_then(|s| s.subdomain.as_ref()));
    let domain = subdomain.map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"));
    let full = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    let kernel = match &domain {
        Some(domain) if full => format!("{hostname}.{domain}"),
        Some(_) | None => hostname.clone(),
    };
    Names { hostname, domain, kernel }
}

/// A pod's name may be longer than a host name; what is cut must not end in a separator.
fn truncated(name: &str) -> String {
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(ips: &[String], names: &Names, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        out.push_str(&match &names.domain {
            Some(domain) => format!("{ip}\t{host}.{domain}\t{host}\n", host = names.hostname),
            None => format!("{ip}\t{}\n", names.hostname),
        });
    }
    out + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod on the host's network: the host's, and the aliases.
pub fn hosts_of_host(host: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{host}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let json = serde_json::json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(json).unwrap()
    }

    fn node() -> DnsOfNode {
        let host = "# made by hand\nnameserver 192.168.1.1 ; home\nsearch lan corp.example\noptions edns0 ndots:1\n";
        DnsOfNode {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            host: ResolvConf::parse(host),
        }
    }

    #[track_caller]
    fn check(spec: serde_json::Value, expected: &str) {
        let mut spec = spec;
        spec["containers"] = serde_json::json!([]);
        assert_eq!(resolv_conf(&pod(spec), &node()).render(), expected);
    }

    const CLUSTER: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local lan corp.example\n\
                           nameserver 10.96.0.10\noptions ndots:5\n";
    const HOST: &str = "search lan corp.example\nnameserver 192.168.1.1\noptions edns0 ndots:1\n";

    #[test]
    fn resolv_conf_by_policy() {
        check(serde_json::json!({}), CLUSTER);
        check(serde_json::json!({"dnsPolicy": "ClusterFirst"}), CLUSTER);
        check(serde_json::json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), HOST);
        check(serde_json::json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), CLUSTER);
        check(serde_json::json!({"dnsPolicy": "Default"}), HOST);
        check(serde_json::json!({"dnsPolicy": "None"}), "");
    }

    #[test]
    fn dns_config_adds_and_overrides() {
        let config = serde_json::json!({"nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["x.example", "lan"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]});
        check(
            serde_json::json!({"dnsConfig": config}),
            "search shop.svc.cluster.local svc.cluster.local cluster.local lan corp.example x.example\n\
             nameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2 rotate\n",
        );
        check(
            serde_json::json!({"dnsPolicy": "None", "dnsConfig": config}),
            "search x.example lan\nnameserver 1.1.1.1\nnameserver 10.96.0.10\noptions ndots:2 rotate\n",
        );
        let many: Vec<String> = (1..9).map(|n| format!("9.9.9.{n}")).collect();
        check(
            serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": many}}),
            "nameserver 9.9.9.1\nnameserver 9.9.9.2\nnameserver 9.9.9.3\n",
        );
    }

    #[test]
    fn every_combination_of_policy_network_and_config() {
        let config = serde_json::json!({"nameservers": ["9.9.9.9"], "searches": ["x.example."], "options": [{"name": "ndots", "value": "1"}]});
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local lan corp.example x.example.\n\
                       nameserver 10.96.0.10\nnameserver 9.9.9.9\noptions ndots:1\n";
        let host =
            "search lan corp.example x.example.\nnameserver 192.168.1.1\nnameserver 9.9.9.9\noptions edns0 ndots:1\n";
        let own = "search x.example.\nnameserver 9.9.9.9\noptions ndots:1\n";
        for (policy, on_host, plain, configured) in [
            (None, false, CLUSTER, cluster),
            (None, true, HOST, host),
            (Some("ClusterFirst"), false, CLUSTER, cluster),
            (Some("ClusterFirst"), true, HOST, host),
            (Some("ClusterFirstWithHostNet"), false, CLUSTER, cluster),
            (Some("ClusterFirstWithHostNet"), true, CLUSTER, cluster),
            (Some("Default"), false, HOST, host),
            (Some("Default"), true, HOST, host),
            (Some("None"), false, "", own),
            (Some("None"), true, "", own),
        ] {
            let spec = |config: &serde_json::Value| serde_json::json!({"dnsPolicy": policy, "hostNetwork": on_host, "dnsConfig": config});
            check(spec(&serde_json::Value::Null), plain);
            check(spec(&config), configured);
        }
    }

    #[test]
    fn the_limits_of_resolvers_are_kept() {
        let searches: Vec<String> = (0..40).map(|n| format!("d{n}.example")).collect();
        let render = |searches: &[String]| {
            let spec = serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"searches": searches}, "containers": []});
            resolv_conf(&pod(spec), &node())
        };
        assert_eq!(render(&searches).searches, searches[..32]);
        let long: Vec<String> = (0..20).map(|n| format!("{n}.{}", "x".repeat(200))).collect();
        assert!(render(&long).searches.join(" ").len() <= 2048);
        // A node whose own file has dots at the ends, and a cluster without DNS.
        let host = ResolvConf::parse("search lan. .\nsearch corp.example. .\nnameserver ::1\n");
        let bare = DnsOfNode { host, ..DnsOfNode::default() };
        let text = resolv_conf(&pod(serde_json::json!({"containers": []})), &bare).render();
        assert_eq!(text, "search corp.example .\nnameserver ::1\n");
    }

    #[test]
    fn names_and_hosts() {
        let named = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = serde_json::json!([]);
            names(&pod(spec), "cluster.local", "n1")
        };
        let plain = named(serde_json::json!({}));
        assert_eq!((plain.hostname.as_str(), plain.domain.as_deref(), plain.kernel.as_str()), ("web-1", None, "web-1"));
        let sub = named(serde_json::json!({"hostname": "a", "subdomain": "db", "setHostnameAsFQDN": true}));
        assert_eq!(sub.kernel, "a.db.shop.svc.cluster.local");
        assert_eq!(named(serde_json::json!({"hostNetwork": true})).kernel, "n1");
        let aliases: Vec<HostAlias> =
            serde_json::from_value(serde_json::json!([{"ip": "1.2.3.4", "hostnames": ["foo", "bar"]}])).unwrap();
        let text = hosts(&["10.244.0.5".into()], &sub, &aliases);
        let tail = "10.244.0.5\ta.db.shop.svc.cluster.local\ta\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n";
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with(tail), "{text}");
        assert_eq!(truncated(&format!("{}--x", "a".repeat(62))), "a".repeat(62));
    }
}
