//! ServiceAccount tokens: JSON web tokens signed with the server's own key, bound to what they were made for.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{User, secrets};
use crate::Server;
use crate::error::Error;
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, find};
use crate::object;

const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;
/// The clocks of those who check may be off by this.
const LEEWAY: i64 = 10;

/// The key that tokens are signed and checked with.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    id: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
    nbf: i64,
    sub: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Bound {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Ref>,
    serviceaccount: Ref,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ref {
    name: String,
    uid: String,
}

impl Signer {
    pub(crate) fn new(pkcs8: &[u8]) -> Result<Signer, Error> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
            .map_err(|error| Error::Certificate(error.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Signer { key, id })
    }

    pub(super) fn sign(&self, claims: &Value) -> Outcome<String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({"alg": "ES256", "kid": self.id});
        let signed = format!("{}.{}", part(&head), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(Fault::internal)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that we signed; nothing for every other.
    fn verified(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        if head["alg"] != "ES256" {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

fn issuer(server: &Server) -> String {
    format!("https://kubernetes.default.svc.{}", server.config.cluster_domain)
}

/// Answers a `TokenRequest` for a ServiceAccount.
pub(crate) fn request(
    server: &Server,
    kind: &'static Kind,
    (namespace, name): (&str, &str),
    mut request: Value,
) -> Outcome<Value> {
    let account = server.store.get(&object::key(kind, namespace, name)).ok_or_else(|| Fault::not_found(kind, name))?;
    let account = object::decode(kind, &account.value)?;
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let path = api::field::Path::new("spec").child("expirationSeconds");
    let refuse = |detail: &str| {
        let error = api::field::FieldError::invalid(path.clone(), seconds, detail);
        Err(api::status::Status::invalid("authentication.k8s.io", "TokenRequest", name, &[error]).into())
    };
    if seconds < SHORTEST_SECONDS {
        return refuse("may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST_SECONDS {
        return refuse("may not specify a duration larger than 2^32 seconds");
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    let audiences = if audiences.is_empty() { vec![issuer(server)] } else { audiences };
    let now = Timestamp::now().as_second();
    let (pod, secret, node) = bound(server, namespace, &spec["boundObjectRef"])?;
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        iss: issuer(server),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: Bound {
            namespace: namespace.to_owned(),
            node,
            pod,
            secret,
            serviceaccount: Ref { name: name.to_owned(), uid: object::meta(&account, "uid").to_owned() },
        },
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let expires = Timestamp::from_second(claims.exp).map(object::timestamp).map_err(Fault::internal)?;
    let signed = serde_json::to_value(&claims).map_err(Fault::internal)?;
    request["status"] = json!({"token": server.signer.sign(&signed)?, "expirationTimestamp": expires});
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    object::set_meta(&mut request, "name", name);
    object::set_meta(&mut request, "namespace", namespace);
    object::set_meta(&mut request, "creationTimestamp", object::now());
    Ok(request)
}

type Bindings = (Option<Ref>, Option<Ref>, Option<Ref>);

/// The object that a token lives and dies with: (pod, secret, node).
fn bound(server: &Server, namespace: &str, reference: &Value) -> Outcome<Bindings> {
    if !reference.is_object() {
        return Ok((None, None, None));
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let plural = match text("kind") {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        other => return Err(Fault::bad_request(format!("cannot bind token to object of type {other}"))),
    };
    let kind = find("", "v1", plural).ok_or_else(|| Fault::internal("no such kind"))?;
    let name = text("name");
    let entry = server.store.get(&object::key(kind, namespace, name)).ok_or_else(|| Fault::not_found(kind, name))?;
    let object = object::decode(kind, &entry.value)?;
    let uid = object::meta(&object, "uid");
    if !text("uid").is_empty() && text("uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        );
        return Err(Fault::conflict(kind, name, why));
    }
    let this = Some(Ref { name: name.to_owned(), uid: uid.to_owned() });
    Ok(match plural {
        "pods" => {
            let node = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
            let node = node.map(|node| Ref { name: node.to_owned(), uid: node_uid(server, node) });
            (this, None, node)
        }
        "secrets" => (None, this, None),
        _ => (None, None, this),
    })
}

fn node_uid(server: &Server, name: &str) -> String {
    let found = find("", "v1", "nodes").and_then(|kind| {
        let entry = server.store.get(&object::key(kind, "", name))?;
        object::decode(kind, &entry.value).ok()
    });
    found.map(|node| object::meta(&node, "uid").to_owned()).unwrap_or_default()
}

/// Who a token stands for, if it is ours, in time, for one of the audiences (ours when none is given) and all that it is bound to is there.
pub(crate) fn user(server: &Server, token: &str, audiences: &[String]) -> Option<User> {
    let claims = server.signer.verified(token)?;
    let own = [issuer(server)];
    let audiences = if audiences.is_empty() { own.as_slice() } else { audiences };
    if secrets::are_ours(&claims) {
        return audiences.contains(&own[0]).then(|| secrets::user(server, &claims, token))?;
    }
    let claims: Claims = serde_json::from_value(claims).ok()?;
    let now = Timestamp::now().as_second();
    let in_time = claims.nbf <= now + LEEWAY && now < claims.exp;
    if claims.iss != own[0] || !in_time || !claims.aud.iter().any(|audience| audiences.contains(audience)) {
        return None;
    }
    let Bound { namespace, node, pod, secret, serviceaccount } = &claims.kubernetes;
    let lives = |plural: &str, reference: &Ref| {
        let kind = find("", "v1", plural)?;
        let entry = server.store.get(&object::key(kind, namespace, &reference.name))?;
        let object = object::decode(kind, &entry.value).ok()?;
        (object::meta(&object, "uid") == reference.uid).then_some(())
    };
    lives("serviceaccounts", serviceaccount)?;
    for (plural, reference) in [("pods", pod), ("secrets", secret)] {
        if let Some(reference) = reference {
            lives(plural, reference)?;
        }
    }
    let all = format!("system:serviceaccounts:{namespace}");
    let mut user = User::new(&claims.sub, &["system:serviceaccounts", &all]);
    user.uid = serviceaccount.uid.clone();
    let mut extra = |name: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
    };
    extra("credential-id", &format!("JTI={}", claims.jti));
    for (kind, reference) in [("node", node), ("pod", pod)] {
        if let Some(reference) = reference {
            extra(&format!("{kind}-name"), &reference.name);
            extra(&format!("{kind}-uid"), &reference.uid);
        }
    }
    Some(user)
}

/// The public key, as a JSON web key set.
pub(crate) fn keys(server: &Server) -> Value {
    let point = server.signer.key.public_key().as_ref();
    // An uncompressed point: a byte 4, then both coordinates.
    let half = |from: usize| URL_SAFE_NO_PAD.encode(point.get(from..from + 32).unwrap_or_default());
    json!({"keys": [{
        "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": server.signer.id, "x": half(1), "y": half(33),
    }]})
}

pub(crate) fn configuration(server: &Server) -> Value {
    let issuer = issuer(server);
    json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{}/openid/v1/jwks", server.address()),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
