//! Logs are read whole, from their end, and while they grow and rotate.

use std::fs::{self, OpenOptions};
use std::io::Write;

use super::*;

fn line(number: u64) -> String {
    format!("{} stdout F line {number}\n", stamp_of(number as i64, 0))
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("log opens");
    file.write_all(text.as_bytes()).expect("log grows");
}

fn rotate(path: &Path) {
    let names = Rotation::of(path);
    for age in (0..2).rev() {
        let _ = fs::rename(names.file(age), names.file(age + 1));
    }
}

fn rest(reader: &mut Reader) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(record) = reader.next_record().expect("log reads") {
        texts.push(String::from_utf8_lossy(&record.text).into_owned());
    }
    texts
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| format!("line {number}")).collect()
}

#[test]
fn records_parse() {
    let record = Record::parse(b"1970-01-01T00:00:00.000000000Z stderr P a b ").expect("a record");
    assert_eq!(
        (record.stream, record.is_partial, record.text.as_slice()),
        (Stream::Stderr, true, &b"a b "[..])
    );
    for line in [&b""[..], b"x stdout F", b"x nowhere F y", b"x stdout Q y"] {
        assert_eq!(Record::parse(line), None);
    }
}

#[test]
fn everything_is_read_through_rotated_files_and_followed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("log");
    let mut reader = Reader::open(&path, Range::default()).expect("a log that is not there yet");
    assert_eq!(rest(&mut reader), Vec::<String>::new());
    append(&path, &line(0));
    rotate(&path);
    append(&path, &(line(1) + &line(2)));
    assert_eq!(rest(&mut reader), numbers(0..3));
    append(&path, &line(3)[..20]);
    assert_eq!(rest(&mut reader), Vec::<String>::new());
    append(&path, &line(3)[20..]);
    assert_eq!(rest(&mut reader), numbers(3..4));
    append(&path, &line(4));
    rotate(&path);
    append(&path, &line(5));
    rotate(&path);
    append(&path, &line(6));
    assert_eq!(rest(&mut reader), numbers(4..7));
}

#[test]
fn tail_and_since_choose() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("log");
    (0..5000).for_each(|number| append(&path, &line(number)));
    rotate(&path);
    (5000..5003).for_each(|number| append(&path, &line(number)));
    let read = |tail, since: Option<u64>| {
        let since = since.map(|seconds| Timestamp(seconds * 1000));
        rest(&mut Reader::open(&path, Range { tail, since }).expect("opens"))
    };
    assert_eq!(read(Some(2), None), numbers(5001..5003));
    assert_eq!(read(Some(2000), None), numbers(3003..5003));
    assert_eq!(read(Some(9999), None), numbers(0..5003));
    assert_eq!(read(Some(0), None), Vec::<String>::new());
    assert_eq!(read(None, Some(4999)), numbers(4999..5003));
    assert_eq!(read(Some(3), Some(5002)), numbers(5002..5003));
    let mut reader = Reader::open(
        &path,
        Range {
            tail: Some(1),
            since: None,
        },
    )
    .expect("opens");
    assert_eq!(rest(&mut reader), numbers(5002..5003));
    append(&path, &line(5003));
    assert_eq!(rest(&mut reader), numbers(5003..5004));
}
