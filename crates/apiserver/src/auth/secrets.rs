//! Secrets of type `kubernetes.io/service-account-token`: whoever makes one for a ServiceAccount gets a token in it that does not expire,
//! and lives as long as the Secret and the account. Upstream's controller-manager does this; the key to sign with is here.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use store::{Change, RangeOptions};

use super::User;
use crate::Server;
use crate::delete::{self, DeleteOptions};
use crate::fault::Outcome;
use crate::kinds::{Kind, find};
use crate::object;
use crate::update::{Part, update};
use crate::write::WriteOptions;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Who signed such tokens before there were others.
const ISSUER: &str = "kubernetes/serviceaccount";
const CLAIM: &str = "kubernetes.io/serviceaccount";

/// Follows Secrets and accounts until the server stops.
pub(crate) fn follow(server: &Arc<Server>) {
    let Some((secrets, accounts)) = kinds() else { return };
    let (shutdown, server) = (server.shutdown.clone(), Arc::downgrade(server));
    tokio::spawn(async move {
        loop {
            let Some(now) = server.upgrade() else { return };
            let from = now.store.revision();
            let watch = |kind| now.store.watch(&object::prefix(kind, ""), from);
            let (Ok(mut of_secrets), Ok(mut of_accounts)) = (watch(secrets), watch(accounts)) else { return };
            report(settle(&now, secrets).await);
            drop(now);
            loop {
                tokio::select! {
                    events = of_secrets.next() => {
                        let (Ok(events), Some(now)) = (events, server.upgrade()) else { break };
                        for event in events.iter().filter(|event| event.change != Change::Deleted) {
                            report(keep(&now, secrets, &event.value).await);
                        }
                    }
                    events = of_accounts.next() => {
                        let (Ok(events), Some(now)) = (events, server.upgrade()) else { break };
                        if events.iter().any(|event| event.change == Change::Deleted) {
                            report(settle(&now, secrets).await);
                        }
                    }
                    () = shutdown.cancelled() => return,
                }
            }
        }
    });
}

fn kinds() -> Option<(&'static Kind, &'static Kind)> {
    find("", "v1", "secrets").zip(find("", "v1", "serviceaccounts"))
}

fn report(outcome: Outcome<()>) {
    if let Err(fault) = outcome {
        tracing::warn!(message = fault.0.message, "a Secret for a ServiceAccount's token could not be kept");
    }
}

async fn settle(server: &Server, secrets: &'static Kind) -> Outcome<()> {
    for entry in server.store.range(&object::prefix(secrets, ""), RangeOptions::default())?.entries {
        keep(server, secrets, &entry.value).await?;
    }
    Ok(())
}

/// Fills in what a Secret of this type lacks; one whose account is not there goes.
async fn keep(server: &Server, secrets: &'static Kind, stored: &[u8]) -> Outcome<()> {
    // Most Secrets are something else, which is seen without reading them.
    if !stored.windows(TYPE.len()).any(|part| part == TYPE.as_bytes()) {
        return Ok(());
    }
    let secret = object::decode(secrets, stored)?;
    if secret["type"] != TYPE || object::is_deleting(&secret) {
        return Ok(());
    }
    let (namespace, name) = (object::namespace(&secret), object::name(&secret));
    let Some(account) = account_of(server, &secret)? else {
        let options = DeleteOptions { uid: Some(object::meta(&secret, "uid").to_owned()), ..DeleteOptions::default() };
        return match delete::delete(server, secrets, namespace, name, &options).await {
            Err(fault) if !fault.is("NotFound") && !fault.is("Conflict") => Err(fault),
            Ok(_) | Err(_) => Ok(()),
        };
    };
    let wanted = filled(server, &secret, &account)?;
    if wanted == secret {
        return Ok(());
    }
    let edit = |_: &Value| Ok(wanted.clone());
    match update(server, secrets, (namespace, name), Part::Whole, &edit, &WriteOptions::own()).await {
        // Someone else wrote meanwhile: the event of that comes next.
        Err(fault) if fault.is("NotFound") || fault.is("Conflict") => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// The account that the annotations of a Secret name, if it is that one still.
fn account_of(server: &Server, secret: &Value) -> Outcome<Option<Value>> {
    let Some((_, accounts)) = kinds() else { return Ok(None) };
    let annotations = &secret["metadata"]["annotations"];
    let name = annotations[ACCOUNT].as_str().unwrap_or_default();
    let Some(entry) = server.store.get(&object::key(accounts, object::namespace(secret), name)) else {
        return Ok(None);
    };
    let account = object::decode(accounts, &entry.value)?;
    let uid = annotations[ACCOUNT_UID].as_str().unwrap_or_default();
    Ok(Some(account).filter(|account| uid.is_empty() || uid == object::meta(account, "uid")))
}

fn filled(server: &Server, secret: &Value, account: &Value) -> Outcome<Value> {
    let mut wanted = secret.clone();
    wanted["metadata"]["annotations"][ACCOUNT_UID] = object::meta(account, "uid").into();
    wanted["data"]["ca.crt"] = STANDARD.encode(&server.pki.ca_pem).into();
    wanted["data"]["namespace"] = STANDARD.encode(object::namespace(secret)).into();
    if secret["data"]["token"].as_str().unwrap_or_default().is_empty() {
        let (namespace, name) = (object::namespace(secret), object::name(account));
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            (format!("{CLAIM}/namespace")): namespace,
            (format!("{CLAIM}/secret.name")): object::name(secret),
            (format!("{CLAIM}/service-account.name")): name,
            (format!("{CLAIM}/service-account.uid")): object::meta(account, "uid"),
        });
        wanted["data"]["token"] = STANDARD.encode(server.signer.sign(&claims)?).into();
    }
    Ok(wanted)
}

/// Whether these are the claims of such a token.
pub(super) fn are_ours(claims: &Value) -> bool {
    claims["iss"] == ISSUER
}

/// Who a token from a Secret stands for: its account, if both are there and the Secret still holds this token.
pub(super) fn user(server: &Server, claims: &Value, token: &str) -> Option<User> {
    let claim = |name: &str| claims[format!("{CLAIM}/{name}")].as_str();
    let namespace = claim("namespace")?;
    let (secrets, _) = kinds()?;
    let entry = server.store.get(&object::key(secrets, namespace, claim("secret.name")?))?;
    let secret = object::decode(secrets, &entry.value).ok()?;
    if object::is_deleting(&secret) || secret["data"]["token"] != STANDARD.encode(token) {
        return None;
    }
    let account = account_of(server, &secret).ok()??;
    let uid = claim("service-account.uid")?;
    if object::meta(&account, "uid") != uid || object::name(&account) != claim("service-account.name")? {
        return None;
    }
    let all = format!("system:serviceaccounts:{namespace}");
    let name = format!("system:serviceaccount:{namespace}:{}", object::name(&account));
    let mut user = User::new(name, &["system:serviceaccounts", &all]);
    user.uid = uid.to_owned();
    Some(user)
}
