//! As whom a container runs: numbers from names, by the container's own `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::path::Path;

use super::Identity;
use crate::Error;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Works out the user: what the pod asks for wins over what the image says. A name that the image does not know is an
/// error; a number need not be known.
pub(super) fn resolve(rootfs: &Path, image_user: &str, identity: &Identity) -> Result<User, Error> {
    let passwd = read(rootfs, "etc/passwd")?;
    let group = read(rootfs, "etc/group")?;
    decide(&passwd, &group, image_user, identity).map_err(Error::Invalid)
}

fn decide(passwd: &str, group: &str, image_user: &str, identity: &Identity) -> Result<User, String> {
    let (user_part, group_part) = image_user.split_once(':').unwrap_or((image_user, ""));
    let known = |matches: &dyn Fn(&Account) -> bool| passwd.lines().filter_map(account).find(|a| matches(a));
    let account = match (identity.uid, user_part) {
        (Some(uid), _) => known(&|a| a.uid == uid).unwrap_or(Account::unknown(uid)),
        (None, "") => known(&|a| a.uid == 0).unwrap_or(Account::unknown(0)),
        (None, part) => match part.parse() {
            Ok(uid) => known(&|a| a.uid == uid).unwrap_or(Account::unknown(uid)),
            Err(_) => {
                let by_name = known(&|a| a.name == part);
                if identity.must_not_be_root {
                    let text = "container has runAsNonRoot and image has non-numeric user";
                    return Err(format!("{text} ({part}), cannot verify user is non-root"));
                }
                by_name.ok_or_else(|| format!("no users found: user `{part}` is not in the image's /etc/passwd"))?
            }
        },
    };
    if identity.must_not_be_root && account.uid == 0 {
        let image_is_root = identity.uid.is_none();
        let reason =
            if image_is_root { "image will run as root" } else { "container's runAsUser breaks non-root policy" };
        return Err(if image_is_root { format!("container has runAsNonRoot and {reason}") } else { reason.to_owned() });
    }
    // The image's group belongs to the image's user, not to one that the pod chose.
    let of_image = if identity.uid.is_some() { "" } else { group_part };
    let gid = match (identity.gid, of_image) {
        (Some(gid), _) => gid,
        (None, "") => account.gid,
        (None, part) => match part.parse() {
            Ok(gid) => gid,
            Err(_) => group_named(group, part)
                .ok_or_else(|| format!("no groups found: group `{part}` is not in the image's /etc/group"))?,
        },
    };
    let mut groups = if identity.strict_groups { Vec::new() } else { groups_of(group, &account.name) };
    groups.extend(&identity.groups);
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid: account.uid, gid, groups })
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    fn unknown(uid: u32) -> Account {
        Account { name: String::new(), uid, gid: 0 }
    }
}

/// `name:password:uid:gid:…`, see passwd(5). Lines that are not are passed over.
fn account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid })
}

/// `name:password:gid:member,member`, see group(5).
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_named(group: &str, wanted: &str) -> Option<u32> {
    groups(group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid)
}

fn groups_of(group: &str, user: &str) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    let is_member = |members: &str| members.split(',').any(|m| m.trim() == user);
    groups(group).filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect()
}

/// A file of the container; empty where it has none. Read through its root, so that a symlink cannot show the node's.
fn read(rootfs: &Path, path: &str) -> Result<String, Error> {
    let Some(file) = linux::rooted::open(rootfs, Path::new(path))? else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    let most = 4 << 20;
    file.take(most).read_to_end(&mut bytes).map_err(Error::disk("read", rootfs.join(path)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nactivemq:x:101:102::/var/lib/activemq:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nmq:x:102:\naudio:x:29:activemq,other\n";

    fn check(image_user: &str, identity: Identity, expected: &str) {
        let found = match decide(PASSWD, GROUP, image_user, &identity) {
            Ok(User { uid, gid, groups }) => format!("{uid}:{gid} {groups:?}"),
            Err(e) => e,
        };
        assert_eq!(found, expected, "{image_user} {identity:?}");
    }

    #[test]
    fn names_become_numbers() {
        let none = Identity::default;
        check("", none(), "0:0 [0]");
        check("activemq", none(), "101:102 [29, 102]");
        check("101", none(), "101:102 [29, 102]");
        check("activemq:audio", none(), "101:29 [29]");
        check("1000:1001", none(), "1000:1001 [1001]");
        check("nobody", none(), "no users found: user `nobody` is not in the image's /etc/passwd");
        check("0:wheel", none(), "no groups found: group `wheel` is not in the image's /etc/group");
    }

    #[test]
    fn the_pod_wins_over_the_image() {
        check("activemq:audio", Identity { uid: Some(7), ..Identity::default() }, "7:0 [0]");
        let both = Identity { uid: Some(101), gid: Some(5), groups: vec![9], ..Identity::default() };
        check("", both, "101:5 [5, 9, 29]");
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let not_root = || Identity { must_not_be_root: true, ..Identity::default() };
        check("", not_root(), "container has runAsNonRoot and image will run as root");
        let text =
            "container has runAsNonRoot and image has non-numeric user (activemq), cannot verify user is non-root";
        check("activemq", not_root(), text);
        check("", Identity { uid: Some(0), ..not_root() }, "container's runAsUser breaks non-root policy");
        check("", Identity { uid: Some(5), ..not_root() }, "5:0 [0]");
    }
}
