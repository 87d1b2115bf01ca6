//! The annotations of ingress-nginx, with real requests.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::{Backend, Lab, run, until};
use serde_json::json;

async fn with_web() -> (Lab, Backend) {
    let lab = Lab::new().await;
    let web = Backend::echo("web").await;
    lab.service("web", &[web.address]).await;
    (lab, web)
}

#[test]
fn paths_are_rewritten() {
    run(async || {
        let (lab, _web) = with_web().await;
        let kind = "ImplementationSpecific";
        lab.ingress_path(
            "groups",
            "a.example",
            "/something(/|$)(.*)",
            kind,
            "web",
            &[("use-regex", "true"), ("rewrite-target", "/$2")],
        )
        .await;
        lab.ingress_path("simple", "b.example", "/app", "Prefix", "web", &[("rewrite-target", "/")]).await;
        lab.ingress_path("regex", "c.example", "/v[0-9]+/users", kind, "web", &[("use-regex", "true")]).await;
        lab.until("c.example", "/v1/users", 200).await;
        lab.until("b.example", "/app", 200).await;
        let uri =
            async |host: &str, path: &str| lab.until(host, path, 200).await.json()["uri"].as_str().unwrap().to_owned();
        assert_eq!(uri("a.example", "/something/new?x=1").await, "/new?x=1");
        assert_eq!(uri("a.example", "/something").await, "/");
        assert_eq!(uri("a.example", "/something/a%20b/c").await, "/a%20b/c");
        assert_eq!(uri("b.example", "/app/x").await, "/");
        assert_eq!(uri("c.example", "/V12/users/7").await, "/V12/users/7");
        assert_eq!(lab.curl("a.example", "/other", &[]).await.status(), 404);
        assert_eq!(lab.curl("b.example", "/application", &[]).await.status(), 404);
        assert_eq!(lab.curl("c.example", "/vx/users", &[]).await.status(), 404);
        lab.stop().await;
    });
}

#[test]
fn redirects_and_roots() {
    run(async || {
        let (lab, _web) = with_web().await;
        lab.ingress("moved", "moved.example", "web", &[("permanent-redirect", "https://new.example/x")]).await;
        lab.ingress(
            "code",
            "code.example",
            "web",
            &[("permanent-redirect", "https://new.example/x"), ("permanent-redirect-code", "308")],
        )
        .await;
        lab.ingress("root", "root.example", "web", &[("app-root", "/app")]).await;
        assert_eq!(lab.until("moved.example", "/", 301).await.header("location"), Some("https://new.example/x"));
        lab.until("code.example", "/", 308).await;
        assert_eq!(lab.until("root.example", "/", 302).await.header("location"), Some("/app"));
        assert_eq!(lab.curl("root.example", "/app", &[]).await.status(), 200);
        lab.stop().await;
    });
}

#[test]
fn bodies_and_times_are_limited() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        let slow = Backend::serve(|request: http::Request<hyper::body::Incoming>| async move {
            if request.uri().path() != "/" {
                std::future::pending::<()>().await;
            }
            http::Response::new(http_body_util::Full::<bytes::Bytes>::default())
        })
        .await;
        lab.service("web", &[web.address]).await;
        lab.service("slow", &[slow.address]).await;
        lab.ingress("small", "small.example", "web", &[("proxy-body-size", "1k")]).await;
        lab.ingress("slow", "slow.example", "slow", &[("proxy-read-timeout", "1")]).await;
        lab.until("small.example", "/", 200).await;
        lab.until("slow.example", "/", 200).await;
        assert_eq!(lab.curl("small.example", "/", &["-d", &"x".repeat(1024)]).await.status(), 200);
        assert_eq!(lab.curl("small.example", "/", &["-d", &"x".repeat(1025)]).await.status(), 413);
        let chunked = ["-H", "Transfer-Encoding: chunked", "-d", &"x".repeat(4096)];
        assert_eq!(lab.curl("small.example", "/", &chunked).await.status(), 413);
        assert_eq!(lab.curl("slow.example", "/wait", &[]).await.status(), 504);
        lab.stop().await;
    });
}

#[test]
fn a_cookie_leads_to_the_same_endpoint() {
    run(async || {
        let lab = Lab::new().await;
        let backends = [Backend::echo("a").await, Backend::echo("b").await, Backend::echo("c").await];
        lab.service("web", &backends.each_ref().map(|b| b.address)).await;
        let sticky = [("affinity", "cookie"), ("session-cookie-name", "stick"), ("session-cookie-max-age", "60")];
        lab.ingress("web", "web.example", "web", &sticky).await;
        let first = lab.until("web.example", "/", 200).await;
        let given = first.header("set-cookie").unwrap().to_owned();
        assert!(given.starts_with("stick=") && given.contains("; Path=/; Max-Age=60; HttpOnly"), "{given}");
        let cookie = format!("Cookie: other=1; {}", given.split(';').next().unwrap());
        let whose = first.json()["service"].clone();
        for _ in 0..12 {
            let said = lab.curl("web.example", "/", &["-H", &cookie]).await;
            assert_eq!(said.json()["service"], whose);
            assert_eq!(said.header("set-cookie"), None);
        }
        let mut others = std::collections::BTreeSet::new();
        for _ in 0..12 {
            others.insert(lab.curl("web.example", "/", &[]).await.json()["service"].to_string());
        }
        assert_eq!(others.len(), 3);
        // Its endpoint leaves: another one, and another cookie.
        let left: Vec<_> =
            backends.iter().zip(["a", "b", "c"]).filter(|(_, n)| *n != whose).map(|(b, _)| b.address).collect();
        lab.endpoints("web", &left).await;
        until("another", async || {
            let said = lab.curl("web.example", "/", &["-H", &cookie]).await;
            let moved = said.status() == 200 && said.json()["service"] != whose && said.header("set-cookie").is_some();
            if moved { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        lab.stop().await;
    });
}

#[test]
fn passwords_are_asked_for() {
    run(async || {
        let (lab, _web) = with_web().await;
        use base64::Engine;
        let auth = |file: &str| base64::engine::general_purpose::STANDARD.encode(file);
        // `openssl passwd -apr1 -salt abcdefgh secret`
        let users = "ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n";
        let secret = |file: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users"}, "data": {"auth": auth(file)}});
        let asked = [("auth-type", "basic"), ("auth-secret", "users"), ("auth-realm", "the shop")];
        lab.ingress("web", "web.example", "web", &asked).await;
        lab.until("web.example", "/", 503).await;
        lab.until_event("web", "Secret default/users holds no usable users").await;
        lab.put(secret(users)).await;
        let said = lab.until("web.example", "/", 401).await;
        assert_eq!(said.header("www-authenticate"), Some("Basic realm=\"the shop\""));
        assert_eq!(lab.curl("web.example", "/", &["-u", "ann:secret"]).await.status(), 200);
        for wrong in ["ann:wrong", "bob:secret", ":"] {
            assert_eq!(lab.curl("web.example", "/", &["-u", wrong]).await.status(), 401, "{wrong}");
        }
        let users = "bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n";
        lab.put(secret(users)).await;
        until("the other user", async || {
            let said = lab.curl("web.example", "/", &["-u", "bob:secret"]).await;
            if said.status() == 200 { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        assert_eq!(lab.curl("web.example", "/", &["-u", "ann:secret"]).await.status(), 401);
        lab.stop().await;
    });
}

#[test]
fn pages_of_other_origins_and_addresses_are_told_apart() {
    run(async || {
        let (lab, _web) = with_web().await;
        let cors = [
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://a.example, https://*.b.example"),
            ("cors-expose-headers", "X-Total"),
        ];
        lab.ingress("cors", "cors.example", "web", &cors).await;
        lab.ingress("near", "near.example", "web", &[("whitelist-source-range", "127.0.0.0/8")]).await;
        lab.ingress("far", "far.example", "web", &[("whitelist-source-range", "192.0.2.0/24,2001:db8::/32")]).await;
        lab.until("near.example", "/", 200).await;
        lab.until("far.example", "/", 403).await;
        lab.until("cors.example", "/", 200).await;
        let said = lab.curl("cors.example", "/", &["-X", "OPTIONS", "-H", "Origin: https://x.b.example"]).await;
        assert_eq!(said.status(), 204);
        assert_eq!(said.header("access-control-allow-origin"), Some("https://x.b.example"));
        assert!(said.header("access-control-allow-methods").unwrap().contains("PATCH"));
        assert_eq!(said.header("access-control-max-age"), Some("1728000"));
        let said = lab.curl("cors.example", "/", &["-H", "Origin: https://a.example"]).await;
        assert_eq!(said.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(said.header("access-control-expose-headers"), Some("X-Total"));
        let said = lab.curl("cors.example", "/", &["-H", "Origin: https://evil.example"]).await;
        assert_eq!((said.status(), said.header("access-control-allow-origin")), (200, None));
        lab.stop().await;
    });
}

#[test]
fn what_is_not_supported_is_named() {
    run(async || {
        let (lab, _web) = with_web().await;
        lab.ingress(
            "web",
            "web.example",
            "web",
            &[("configuration-snippet", "return 418;"), ("auth-url", "http://auth"), ("proxy-body-size", "lots")],
        )
        .await;
        lab.until("web.example", "/", 200).await;
        for name in ["configuration-snippet", "auth-url"] {
            lab.until_event("web", &format!("annotation `nginx.ingress.kubernetes.io/{name}` is not supported")).await;
        }
        lab.until_event("web", "`lots` is not a size").await;
        lab.stop().await;
    });
}

#[test]
fn clients_are_limited() {
    run(async || {
        let (lab, _web) = with_web().await;
        let (release, released) = tokio::sync::watch::channel(false);
        let waits = Backend::serve(move |request: http::Request<hyper::body::Incoming>| {
            let mut released = released.clone();
            async move {
                if request.uri().path() != "/" {
                    let _ = released.wait_for(|released| *released).await;
                }
                http::Response::new(http_body_util::Full::<bytes::Bytes>::default())
            }
        })
        .await;
        lab.service("waits", &[waits.address]).await;
        lab.ingress("rate", "rate.example", "web", &[("limit-rpm", "1"), ("limit-burst-multiplier", "6")]).await;
        lab.ingress("free", "free.example", "web", &[("limit-rpm", "1"), ("limit-whitelist", "127.0.0.0/8")]).await;
        lab.ingress("once", "once.example", "waits", &[("limit-connections", "2")]).await;
        lab.until("free.example", "/", 200).await;
        lab.until("rate.example", "/", 200).await;
        let mut statuses = Vec::new();
        for _ in 0..9 {
            statuses.push(lab.curl("rate.example", "/", &[]).await.status());
            assert_eq!(lab.curl("free.example", "/", &[]).await.status(), 200);
        }
        // The burst, and no more than one that a minute on a slow machine lets through.
        let let_through = statuses.iter().filter(|status| **status == 200).count();
        assert!((6..=7).contains(&let_through) && statuses.contains(&503), "{statuses:?}");
        // Two that wait leave no room for a third; once they are gone there is room again.
        lab.until("once.example", "/", 200).await;
        let held = waits.asked();
        let waiting = futures::future::join_all((0..2).map(|_| lab.curl("once.example", "/wait", &[])));
        let third = async {
            until("both wait", async || if waits.asked() == held + 2 { Ok(()) } else { Err(String::new()) }).await;
            let status = lab.curl("once.example", "/", &[]).await.status();
            release.send_replace(true);
            status
        };
        let (first, third) = futures::future::join(waiting, third).await;
        assert_eq!((first[0].status(), first[1].status(), third), (200, 200, 503));
        lab.until("once.example", "/", 200).await;
        lab.stop().await;
    });
}

#[test]
fn a_host_has_other_names_and_another_service_stands_in() {
    run(async || {
        let (lab, _web) = with_web().await;
        let pages = Backend::serve(|request: http::Request<hyper::body::Incoming>| async move {
            let said =
                |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap_or("?")).to_owned();
            let text =
                format!("{} {} {} {}", said("x-code"), said("x-original-uri"), said("x-service-name"), request.uri());
            let mut page = http::Response::new(http_body_util::Full::from(text));
            *page.status_mut() = said("x-code").parse().unwrap_or_default();
            page
        })
        .await;
        let fails = Backend::serve(|_: http::Request<hyper::body::Incoming>| async move {
            let mut answer = http::Response::new(http_body_util::Full::<bytes::Bytes>::from("raw"));
            *answer.status_mut() = http::StatusCode::NOT_FOUND;
            answer
        })
        .await;
        lab.service("pages", &[pages.address]).await;
        lab.service("fails", &[fails.address]).await;
        lab.service("empty", &[]).await;
        lab.ingress("alias", "one.example", "web", &[("server-alias", "two.example, *.three.example")]).await;
        for host in ["one.example", "two.example", "x.three.example"] {
            lab.until(host, "/", 200).await;
        }
        let errors = [("default-backend", "pages"), ("custom-http-errors", "404,500")];
        lab.ingress("fails", "fails.example", "fails", &errors).await;
        lab.ingress("empty", "empty.example", "empty", &[("default-backend", "pages")]).await;
        until("the page", async || {
            let said = lab.curl("fails.example", "/a?b=c", &[]).await;
            let page = said.status() == 404 && said.body() == "404 /a?b=c fails /";
            if page { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        assert_eq!(lab.until("empty.example", "/x", 200).await.body(), "- - - /x");
        lab.stop().await;
    });
}

#[test]
fn a_canary_takes_its_part() {
    run(async || {
        let (lab, _web) = with_web().await;
        let next = Backend::echo("next").await;
        lab.service("next", &[next.address]).await;
        lab.ingress("web", "web.example", "web", &[]).await;
        let canary = [("canary", "true"), ("canary-by-header", "x-next"), ("canary-weight", "25")];
        lab.ingress("next", "web.example", "next", &canary).await;
        let asked = async |flags: &[&str]| {
            let said = lab.curl("web.example", "/", flags).await;
            if said.status() == 200 { said.json()["service"].as_str().unwrap().to_owned() } else { String::new() }
        };
        until("the canary", async || {
            let service = asked(&["-H", "x-next: always"]).await;
            if service == "next" { Ok(()) } else { Err(service) }
        })
        .await;
        assert_eq!(asked(&["-H", "x-next: never"]).await, "web");
        let mut taken = 0;
        for _ in 0..20 {
            taken += usize::from(asked(&[]).await == "next");
        }
        assert_eq!(taken, 5);
        assert!(lab.events("next").await.is_empty(), "a canary clashes with nobody");
        lab.stop().await;
    });
}
