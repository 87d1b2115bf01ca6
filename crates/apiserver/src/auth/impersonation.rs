//! Acting as someone else, as `kubectl --as` does: for those who may, and then with that one's rights only.

use http::HeaderMap;

use super::rbac::refusal;
use super::{AUTHENTICATED, Attributes, UNAUTHENTICATED, User};
use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::query::decoded;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Who the request is to be judged as.
pub(crate) fn impersonate(server: &Server, user: User, headers: &HeaderMap) -> Outcome<User> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let asked = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
    if !asked {
        return Ok(user);
    }
    let name = text(USER);
    if name.is_empty() {
        return Err(Fault::bad_request("requested impersonation of groups, uid or extra without impersonating a user"));
    }
    let mut other = User { name: name.clone(), uid: text(UID), ..User::default() };
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            check(server, &user, ("", "serviceaccounts", ""), namespace, account)?;
            other.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        None => check(server, &user, ("", "users", ""), "", &name)?,
    }
    let groups: Vec<String> =
        headers.get_all(GROUP).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    for group in &groups {
        check(server, &user, ("", "groups", ""), "", group)?;
    }
    if !groups.is_empty() {
        other.groups = groups;
    }
    if !other.uid.is_empty() {
        check(server, &user, ("authentication.k8s.io", "uids", ""), "", &other.uid)?;
    }
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = decoded(key, false);
            check(server, &user, ("authentication.k8s.io", "userextras", &key), "", value)?;
            other.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    let everyone = if other.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !other.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        other.groups.push(everyone.to_owned());
    }
    Ok(other)
}

fn check(
    server: &Server,
    user: &User,
    (group, resource, subresource): (&str, &str, &str),
    namespace: &str,
    name: &str,
) -> Outcome<()> {
    let wanted = Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        path: String::new(),
    };
    match server.access.reason(&*server.store, user, &wanted) {
        Some(_) => Ok(()),
        None => Err(refusal(user, &wanted).into()),
    }
}
