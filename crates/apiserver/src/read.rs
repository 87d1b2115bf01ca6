//! get and list: answered from memory, as of one revision.

use api::field::{FieldError, Path};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::{Entry, Range, RangeOptions};

use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::kinds::Kind;
use crate::kinds::common::errors::unsupported;
use crate::object;
use crate::query::Query;
use crate::render::{ListMeta, Renderer};
use crate::selection::Selection;

/// Go's decoder does not mind bits that are left over, so tokens that are garbage fail where its clients expect it.
const TOKENS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Where a list goes on: upstream's token, so that its length and look are the known ones.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    #[serde(rename = "v")]
    version: String,
    #[serde(rename = "rv")]
    revision: i64,
    /// The last name of the page before, and a zero byte.
    start: String,
}

/// Which state a read wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The latest.
    Latest,
    /// Exactly this one.
    Exact(u64),
}

pub(crate) fn get(server: &Server, kind: &'static Kind, namespace: &str, name: &str, query: &Query) -> Outcome<Entry> {
    if let Some(asked) = revision(query)? {
        not_newer(server, asked)?;
    }
    server.store.get(&object::key(kind, namespace, name)).ok_or_else(|| Fault::not_found(kind, name))
}

pub(crate) fn list(
    server: &Server,
    kind: &'static Kind,
    namespace: &str,
    query: &Query,
    renderer: &Renderer,
) -> Outcome<Bytes> {
    let selection = Selection::of(kind, query)?;
    let (entries, meta) = select(server, kind, namespace, query, &selection)?;
    renderer.list(&entries, &meta)
}

/// The entries of one page, and what the list says about itself.
pub(crate) fn select(
    server: &Server,
    kind: &'static Kind,
    namespace: &str,
    query: &Query,
    selection: &Selection,
) -> Outcome<(Vec<Entry>, ListMeta)> {
    check_options(query, false)?;
    let limit = query.number("limit")?.map_or(0, |limit| usize::try_from(limit).unwrap_or(0));
    let prefix = object::prefix(kind, namespace);
    let (at, after) = match query.get("continue").filter(|token| !token.is_empty()) {
        Some(token) => resume(token, &prefix, query)?,
        None => (state(server, query, limit > 0)?, None),
    };
    let at = match at {
        At::Latest => None,
        At::Exact(revision) => Some(revision),
    };
    let scan = if selection.is_everything() { limit } else { 0 };
    let options = RangeOptions { after: after.as_deref(), limit: scan, at };
    let range = server.store.range(&prefix, options).map_err(|error| match (error, &after) {
        (store::Error::Compacted { .. }, Some(after)) => gone_on(after.strip_prefix(&prefix).unwrap_or_default()),
        (error, _) => error.into(),
    });
    let Range { mut entries, revision, remaining } = range?;
    let mut more = remaining > 0;
    let mut counted = Some(remaining);
    if !selection.is_everything() {
        let mut kept = Vec::new();
        more = false;
        for entry in entries {
            if selection.matches_at(kind, &entry.key, &entry.value)? {
                if limit > 0 && kept.len() == limit {
                    more = true;
                    break;
                }
                kept.push(entry);
            }
        }
        entries = kept;
        // With a selector upstream does not count either.
        counted = None;
    }
    let last = entries.last().filter(|_| more);
    let continue_token = last.map(|last| token(Some(revision), last.key.strip_prefix(&*prefix).unwrap_or_default()));
    let remaining = counted.filter(|_| continue_token.is_some());
    Ok((entries, ListMeta { revision, continue_token, remaining }))
}

/// The version of a list's first page is no longer known: the rest can be had as it is now.
fn gone_on(last: &str) -> Fault {
    let mut fault = Fault::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
         continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with \
         the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the \
         first chunk was returned and now may show up in the list.",
    );
    fault.0.continuation = token(None, last);
    fault
}

/// Without a revision the list goes on at the latest.
fn token(revision: Option<u64>, last: &str) -> String {
    let token = Continue {
        version: "meta.k8s.io/v1".to_owned(),
        revision: revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX)),
        start: format!("{last}\0"),
    };
    TOKENS.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn resume(token: &str, prefix: &str, query: &Query) -> Outcome<(At, Option<String>)> {
    if !matches!(query.text("resourceVersion"), "" | "0") {
        return Err(Fault::bad_request("specifying resource version is not allowed when using continue"));
    }
    let refused = |why: String| Fault::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = TOKENS.decode(token.trim_end_matches('=')).map_err(|error| refused(error.to_string()))?;
    let parsed: Continue =
        serde_json::from_slice(&bytes).map_err(|error| refused(api::decode::syntax_fault(&bytes, &error)))?;
    if parsed.version != "meta.k8s.io/v1" {
        return Err(refused(format!("server does not recognize this encoded version {}", parsed.version)));
    }
    let last = parsed.start.trim_end_matches('\0');
    let at = u64::try_from(parsed.revision).ok().filter(|&revision| revision > 0).map_or(At::Latest, At::Exact);
    Ok((at, Some(format!("{prefix}{last}"))))
}

/// What `resourceVersion` and `resourceVersionMatch` ask for.
fn state(server: &Server, query: &Query, paged: bool) -> Outcome<At> {
    let asked = revision(query)?;
    match (query.text("resourceVersionMatch"), asked) {
        // Pages have always been of exactly the version that was asked for.
        ("", Some(revision)) if paged && revision > 0 => Ok(At::Exact(revision)),
        ("Exact", Some(revision)) => Ok(At::Exact(revision)),
        (_, Some(revision)) => {
            not_newer(server, revision)?;
            Ok(At::Latest)
        }
        (_, None) => Ok(At::Latest),
    }
}

/// The options of a list and of a watch must go together.
pub(crate) fn check_options(query: &Query, watch: bool) -> Outcome<()> {
    const EXACT: &str = "Exact";
    const NOT_OLDER: &str = "NotOlderThan";
    let matching = query.text("resourceVersionMatch");
    let path = Path::new("resourceVersionMatch");
    let initial = query.get("sendInitialEvents").is_some();
    let mut errors = Vec::new();
    let mut forbid = |holds: bool, why: &str| {
        errors.extend(holds.then(|| FieldError::forbidden(path.clone(), why)));
    };
    if watch {
        let other = matching != NOT_OLDER;
        forbid(initial && other, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        let alone = !matching.is_empty() && !initial;
        forbid(alone, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    } else if !matching.is_empty() {
        let unsaid = query.text("resourceVersion").is_empty();
        forbid(unsaid, "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    let goes_on = !matching.is_empty() && !query.text("continue").is_empty();
    forbid(goes_on, "resourceVersionMatch is forbidden when continue is provided");
    let known: &[&str] = if watch { &[NOT_OLDER] } else { &[EXACT, NOT_OLDER, ""] };
    if !matching.is_empty() && !known.contains(&matching) {
        errors.push(unsupported(path.clone(), matching, known));
    }
    if !watch && matching == EXACT && query.text("resourceVersion") == "0" {
        let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        errors.push(FieldError::forbidden(path, why));
    }
    if !watch && initial {
        let path = Path::new("sendInitialEvents");
        errors.push(FieldError::forbidden(path, "sendInitialEvents is forbidden for list"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Fault::invalid_options("ListOptions", &errors)) }
}

/// The parameter `resourceVersion`; absent and empty are the same.
pub(crate) fn revision(query: &Query) -> Outcome<Option<u64>> {
    match query.text("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Fault::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

fn not_newer(server: &Server, asked: u64) -> Outcome<()> {
    let latest = server.store.revision();
    if asked > latest { Err(Fault::too_new(asked, latest)) } else { Ok(()) }
}
