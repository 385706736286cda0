//! Who a process runs as: names and numbers resolved with the container's own `/etc/passwd` and `/etc/group`.
//!
//! Pure text in, numbers out; the files are read by the caller, inside the container's root.

/// Most bytes read of either file; images with more accounts than that do not exist in practice.
pub const FILE_LENGTH_MAX: u64 = 4 << 20;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Supplementary groups, sorted, without repetition.
    pub groups: Vec<u32>,
    /// Home folder, `/` when the user is not in the file.
    pub home: String,
}

/// A name that the container does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownName {
    /// Not in `/etc/passwd`, and not a number.
    User(String),
    /// Not in `/etc/group`, and not a number.
    Group(String),
}

impl std::fmt::Display for UnknownName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(formatter, "user '{name}' is not in the image's /etc/passwd"),
            Self::Group(name) => write!(formatter, "group '{name}' is not in the image's /etc/group"),
        }
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let _comment = fields.next();
        Some(Account {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: fields.next().unwrap_or_default(),
        })
    })
}

/// Name, number and member list of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

fn group_number(wanted: &str, group: &str) -> Result<u32, UnknownName> {
    let named = groups(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
    named
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| UnknownName::Group(wanted.to_string()))
}

/// Resolves as Docker does: a name first, then a number; a number that is nobody's has group 0 and home `/`. Groups that list
/// the user as a member count only when no group is given.
///
/// # Errors
/// When a name is neither known nor a number.
pub fn resolve(
    (user, user_group): (&str, Option<&str>),
    group_add: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, UnknownName> {
    let named = accounts(passwd).find(|account| account.name == user);
    let number = user.parse::<u32>().ok();
    let account = named.or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
    let uid = account.as_ref().map(|account| account.uid).or(number);
    let uid = uid.ok_or_else(|| UnknownName::User(user.to_string()))?;
    let mut supplementary = Vec::new();
    let gid = match user_group {
        Some(wanted) => group_number(wanted, group)?,
        None => {
            let name = account.as_ref().map_or("", |account| account.name);
            let is_member = |members: &str| !name.is_empty() && members.split(',').any(|member| member == name);
            supplementary.extend(
                groups(group)
                    .filter(|(.., members)| is_member(members))
                    .map(|(_, gid, _)| gid),
            );
            account.as_ref().map_or(0, |account| account.gid)
        }
    };
    for wanted in group_add {
        supplementary.push(group_number(wanted, group)?);
    }
    // The kernel checks the effective group as well; Docker lists it among the supplementary ones too.
    supplementary.push(gid);
    supplementary.sort_unstable();
    supplementary.dedup();
    let home = account.map_or("", |account| account.home);
    Ok(Identity {
        uid,
        gid,
        groups: supplementary,
        home: if home.is_empty() {
            "/".to_string()
        } else {
            home.to_string()
        },
    })
}

/// Home folder of a user by number; `/` when it is nobody's.
#[must_use]
pub fn home_of(uid: u32, passwd: &str) -> String {
    let account = accounts(passwd).find(|account| account.uid == uid);
    match account.map_or("", |account| account.home) {
        "" => "/".to_string(),
        home => home.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:34:web:/var/www:/bin/false\n1000:x:7:7::/odd:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:other,www\n";

    fn identity(user: &str, group: Option<&str>, add: &[&str]) -> Result<Identity, UnknownName> {
        let add: Vec<String> = add.iter().map(|name| (*name).to_string()).collect();
        resolve((user, group), &add, PASSWD, GROUP)
    }

    #[test]
    fn names_and_numbers_resolve() {
        let www = identity("www", None, &[]).expect("known");
        assert_eq!(
            (www.uid, www.gid, www.groups, www.home.as_str()),
            (33, 34, vec![34, 50], "/var/www")
        );
        let number = identity("33", None, &["logs", "99"]).expect("known by number");
        assert_eq!((number.uid, number.gid, number.groups), (33, 34, vec![34, 50, 99]));
        let stranger = identity("4242", None, &[]).expect("any number");
        assert_eq!((stranger.uid, stranger.gid, stranger.home.as_str()), (4242, 0, "/"));
        let grouped = identity("www", Some("root"), &[]).expect("known group");
        assert_eq!((grouped.gid, grouped.groups), (0, vec![0]));
        assert_eq!(
            identity("1000", None, &[]).map(|found| found.uid),
            Ok(7),
            "a name of digits wins over the number"
        );
    }

    #[test]
    fn unknown_names_are_named() {
        assert_eq!(identity("nobody", None, &[]), Err(UnknownName::User("nobody".into())));
        assert_eq!(
            identity("root", Some("nope"), &[]),
            Err(UnknownName::Group("nope".into()))
        );
        assert_eq!(identity("-1", None, &[]), Err(UnknownName::User("-1".into())));
    }
}
