//! TLS: certificates by name from Secrets, reloaded, bad ones told; redirects; HTTP/2 by ALPN; TLS towards backends.
#![allow(clippy::unwrap_used)]

mod lab;

use std::process::Stdio;

use lab::{Backend, Lab, run, until};
use serde_json::json;
use tokio::io::AsyncWriteExt;

impl Lab {
    async fn tls_ingress(&self, name: &str, host: &str, secret: Option<&str>, annotations: serde_json::Value) {
        let mut tls = json!({"hosts": [host]});
        if let Some(secret) = secret {
            tls["secretName"] = json!(secret);
        }
        self.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"ingressClassName": "portolan", "tls": [tls], "rules": [{"host": host, "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}
            ]}}]}
        }))
        .await;
    }

    /// What `openssl s_client` says of the certificate that it gets.
    async fn certificate(&self, name: Option<&str>, flags: &[&str]) -> String {
        let mut command = tokio::process::Command::new("openssl");
        command.args(["s_client", "-connect", &self.https.to_string(), "-showcerts"]).args(flags);
        match name {
            Some(name) => command.args(["-servername", name]),
            None => command.arg("-noservername"),
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().shutdown().await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn until_certificate(&self, name: &str, pem: &str) {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        until(&format!("the certificate of {name}"), async || {
            let said = self.certificate(Some(name), &[]).await;
            let joined: String = said.lines().map(str::trim).collect();
            if joined.contains(&body) { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

#[test]
fn certificates_follow_their_secrets_and_a_bad_one_disturbs_nobody() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        let good = lab.secret("good", &["good.example"]).await;
        lab.tls_ingress("good", "good.example", Some("good"), json!({})).await;
        lab.until_certificate("good.example", &good).await;
        // Who names nobody gets the only certificate there is.
        let said = lab.certificate(None, &[]).await;
        assert!(said.lines().map(str::trim).collect::<String>().contains(good.lines().nth(1).unwrap()), "{said}");

        let wild = lab.secret("wild", &["*.wild.example"]).await;
        lab.tls_ingress("wild", "*.wild.example", Some("wild"), json!({})).await;
        lab.until_certificate("a.wild.example", &wild).await;
        let other = lab.certificate(Some("a.b.wild.example"), &[]).await;
        assert!(other.contains("Portolan ingress, default certificate"), "{other}");

        lab.raw_secret("bad", "no certificate", "no key").await;
        lab.tls_ingress("bad", "bad.example", Some("bad"), json!({})).await;
        lab.until_event("bad", "Secret default/bad holds no usable certificate").await;
        lab.tls_ingress("gone", "gone.example", Some("gone"), json!({})).await;
        lab.until_event("gone", "Secret default/gone does not exist").await;
        lab.until_certificate("good.example", &good).await;
        let said = lab.curl_tls("bad.example", "/", &[]).await;
        assert_eq!(said.status(), 200, "served with the default certificate: {said:?}");

        // Mended, and replaced.
        let mended = lab.secret("bad", &["bad.example"]).await;
        lab.until_certificate("bad.example", &mended).await;
        let renewed = lab.secret("good", &["good.example"]).await;
        assert_ne!(renewed, good);
        lab.until_certificate("good.example", &renewed).await;
        lab.stop().await;
    });
}

#[test]
fn both_versions_are_agreed_on_and_sessions_are_resumed() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        let pem = lab.secret("tls", &["web.example"]).await;
        lab.tls_ingress("web", "web.example", Some("tls"), json!({})).await;
        lab.until_certificate("web.example", &pem).await;
        for (flag, version) in [("--http2", "HTTP/2"), ("--http1.1", "HTTP/1.1")] {
            let said = lab.curl_tls("web.example", "/", &[flag]).await;
            assert_eq!(said.status(), 200, "{said:?}");
            assert!(said.text.starts_with(version), "{said:?}");
            let seen = said.json();
            assert_eq!(
                (&seen["version"], &seen["headers"]["x-forwarded-proto"]),
                (&json!("HTTP/1.1"), &json!("https"))
            );
        }
        for version in ["-tls1_2", "-tls1_3"] {
            let said = lab.certificate(Some("web.example"), &[version]).await;
            assert!(said.contains("BEGIN CERTIFICATE"), "{version}: {said}");
        }
        let session = lab.folder.path().join("session").display().to_string();
        lab.certificate(Some("web.example"), &["-tls1_2", "-sess_out", &session]).await;
        let again = lab.certificate(Some("web.example"), &["-tls1_2", "-sess_in", &session]).await;
        assert!(again.contains("Reused, TLSv1.2"), "{again}");
        // Older versions and names that are none are refused, and only they.
        let old = lab.certificate(Some("web.example"), &["-tls1_1"]).await;
        assert!(!old.contains("BEGIN CERTIFICATE"), "{old}");
        let strange = lab.certificate(Some("..not a name.."), &[]).await;
        assert!(!strange.contains("Reused"), "{strange}");
        assert_eq!(lab.curl_tls("web.example", "/", &[]).await.status(), 200);
        lab.stop().await;
    });
}

#[test]
fn plain_requests_are_sent_to_https_where_that_is_asked_for() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        lab.secret("tls", &["a.example"]).await;
        let annotated = |name: &str, value: &str| json!({format!("nginx.ingress.kubernetes.io/{name}"): value});
        lab.tls_ingress("plain", "plain.example", Some("tls"), json!({})).await;
        lab.tls_ingress("nginx", "nginx.example", Some("tls"), annotated("proxy-body-size", "1m")).await;
        lab.tls_ingress("off", "off.example", Some("tls"), annotated("ssl-redirect", "false")).await;
        lab.ingress("forced", "forced.example", "web", &[("force-ssl-redirect", "true")]).await;
        lab.ingress("without", "without.example", "web", &[("proxy-body-size", "1m")]).await;
        for host in ["plain.example", "off.example", "without.example"] {
            lab.until(host, "/", 200).await;
        }
        for host in ["nginx.example", "forced.example"] {
            let said = lab.until(host, "/a?b=c", 308).await;
            let to = format!("https://{host}:{}/a?b=c", lab.https.port());
            assert_eq!(said.header("location"), Some(to.as_str()));
            assert_eq!(lab.curl_tls(host, "/a", &[]).await.status(), 200);
            assert_eq!(lab.curl(host, "/.well-known/acme-challenge/x", &[]).await.status(), 200);
        }
        lab.stop().await;
    });
}

#[test]
fn backends_may_speak_tls() {
    run(async || {
        let lab = Lab::new().await;
        // openssl's own little server: it answers each request with a page about the connection.
        let pem = lab.folder.path().join("backend.pem");
        let made = rcgen::generate_simple_self_signed(vec!["backend".to_owned()]).unwrap();
        std::fs::write(&pem, format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())).unwrap();
        let port = std::net::TcpListener::bind((lab::local_address(), 0)).unwrap().local_addr().unwrap();
        let mut server = tokio::process::Command::new("openssl");
        let server = server.args(["s_server", "-quiet", "-www", "-accept", &port.to_string(), "-cert"]).arg(&pem);
        let mut server =
            server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        lab.service("tls", &[port]).await;
        lab.ingress("tls", "tls.example", "tls", &[("backend-protocol", "HTTPS")]).await;
        let said = lab.until("tls.example", "/", 200).await;
        assert!(said.body().contains("s_server"), "{said:?}");
        server.kill().await.unwrap();
        lab.stop().await;
    });
}
