//! Pax extension records: `LENGTH KEY=VALUE\n`, the value any bytes at all (POSIX.1-2001, `pax`).

/// The prefix of extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What a pax header says about the member that follows; absent is "as in its own header".
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<PaxSparse>,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
}

/// Reads all records of a pax header.
pub(super) fn parse(mut data: &[u8]) -> Result<Pax, &'static str> {
    let mut pax = Pax::default();
    // Some writers pad with zeros.
    while data.first().is_some_and(|byte| *byte != 0) {
        let (key, value, rest) = record(data).ok_or("malformed pax record")?;
        pax.set(key, value)?;
        data = rest;
    }
    Ok(pax)
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(data: &[u8]) -> Option<Record<'_>> {
    let space = data.iter().position(|byte| *byte == b' ')?;
    let length: usize = text_number(&data[..space])?;
    let line = data.get(space + 1..length)?;
    let (newline, pair) = line.split_last()?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    (*newline == b'\n').then(|| (&pair[..equals], &pair[equals + 1..], &data[length..]))
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if key.starts_with(b"GNU.sparse.") {
            return self.set_sparse(key, value);
        }
        // An empty value takes back what an earlier header said (POSIX); what remains is the member's own header.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = optional(given, text_number(value), "pax size is not a number")?,
            b"uid" => self.uid = optional(given, text_number(value), "pax uid is not a number")?,
            b"gid" => self.gid = optional(given, text_number(value), "pax gid is not a number")?,
            b"mtime" => self.mtime = optional(given, seconds(value), "pax mtime is not a number")?,
            _ => {}
        }
        Ok(())
    }

    fn set_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let sparse = self.sparse.get_or_insert_default();
        let number = || text_number(value).ok_or("GNU.sparse record is not a number");
        match key {
            b"GNU.sparse.major" => sparse.major = number()?,
            b"GNU.sparse.minor" => sparse.minor = number()?,
            b"GNU.sparse.realsize" => sparse.real_size = Some(number()?),
            b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
            _ => {}
        }
        Ok(())
    }
}

fn optional<T>(given: bool, value: Option<T>, reason: &'static str) -> Result<Option<T>, &'static str> {
    match (given, value) {
        (false, _) => Ok(None),
        (true, Some(value)) => Ok(Some(value)),
        (true, None) => Err(reason),
    }
}

fn text_number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Decimal seconds, with a sign and a fraction; rounded towards the past so that nanoseconds stay positive.
fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let length = (1..)
            .map(|digits| body + digits)
            .find(|length| body + length.to_string().len() == *length)
            .expect("some length describes itself");
        let mut line = format!("{length} {key}=").into_bytes();
        line.extend_from_slice(value);
        line.push(b'\n');
        line
    }

    #[test]
    fn values_hold_any_byte() {
        let data = [
            line("path", b"a/b"),
            line("SCHILY.xattr.security.capability", b"\x01\n=\0\xff"),
            line("mtime", b"-1.25"),
            line("size", b"12"),
            line("linkpath", b""),
        ]
        .concat();
        let pax = parse(&data).expect("well formed");
        assert_eq!(pax.path.as_deref(), Some(b"a/b".as_slice()));
        assert_eq!(
            pax.xattrs,
            [(b"security.capability".to_vec(), b"\x01\n=\0\xff".to_vec())]
        );
        assert_eq!(
            (pax.mtime, pax.size, pax.link),
            (Some((-2, 750_000_000)), Some(12), None)
        );
    }

    #[test]
    fn damaged_records_are_refused() {
        for data in [
            b"9 path=a\n\n".as_slice(),
            b"99 path=a\n",
            b"0 path=a\n",
            b"2 \n",
            b"x",
            b"12 size=-1x\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(parse(data).is_err(), "{data:?}");
        }
    }
}
