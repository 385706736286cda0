//! Any tar at all: it unpacks or it fails, it never gets out, and a failure leaves nothing.

use proptest::prelude::*;
use tar::EntryType;

use crate::fixtures::{TarMaker, World, docker_archive, names};

#[derive(Debug, Clone)]
struct Part {
    kind: u8,
    path: Vec<&'static str>,
    link: Vec<&'static str>,
    data: u8,
}

fn path() -> impl Strategy<Value = Vec<&'static str>> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh..",
        "victim",
        "VICTIM",
        "proc",
        "self",
        "root",
    ]);
    prop::collection::vec(part, 1..5)
}

fn part() -> impl Strategy<Value = Part> {
    (0u8..8, path(), path(), any::<u8>()).prop_map(|(kind, path, link, data)| Part { kind, path, link, data })
}

fn tar_of(world: &World, parts: &[Part]) -> TarMaker {
    let victim = world.victim().display().to_string();
    let text = |parts: &[&str]| {
        let text = parts.join("/").replace("VICTIM", &victim);
        text[..text.len().min(99)].to_string()
    };
    parts.iter().fold(TarMaker::default(), |tar, part| {
        let (path, link) = (text(&part.path), text(&part.link));
        match part.kind {
            0 | 1 => tar.member(
                EntryType::Regular,
                &path,
                "",
                &vec![part.data; usize::from(part.data) * 3],
            ),
            2 | 3 => tar.dir(&path),
            4 | 5 => tar.symlink(&path, &link),
            6 => tar.hard_link(&path, &link),
            _ => tar.member(EntryType::Fifo, &path, "", b""),
        }
    })
}

fn check(world: &World, tar: &[u8]) {
    let outcome = world.unpack(tar);
    world.assert_untouched();
    world.assert_nothing_half_done();
    if outcome.is_err() {
        assert_eq!(names(&world.dir().join("layers")), [""; 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_members_stay_inside(parts in prop::collection::vec(part(), 1..12)) {
        let world = World::new();
        let tar = tar_of(&world, &parts).end();
        check(&world, &tar);
    }

    #[test]
    fn damaged_tars_fail_cleanly(
        parts in prop::collection::vec(part(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let world = World::new();
        let mut tar = tar_of(&world, &parts).end();
        for (index, byte) in damage {
            let position = index.index(tar.len());
            // Damage inside a header is only interesting when its checksum fits again.
            tar[position] = byte;
            let start = position - position % 512;
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes().copy_from_slice(&tar[start..start + 512]);
            header.set_cksum();
            tar[start..start + 512].copy_from_slice(header.as_bytes());
        }
        check(&world, &tar);
        check(&World::new(), &tar[..cut.index(tar.len())]);
    }

    #[test]
    fn damaged_archives_fail_cleanly(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let world = World::new();
        let mut archive = docker_archive("x", &[TarMaker::default().file("a", "1").end()]);
        for (index, byte) in damage {
            let position = index.index(archive.len());
            archive[position] = byte;
        }
        let loaded = world.store.load(archive.as_slice());
        if let Ok(images) = &loaded {
            for image in images {
                let _ = world.store.unpack(image.digest);
            }
        } else {
            prop_assert_eq!(world.store.list(), []);
            prop_assert_eq!(names(&world.dir().join("blobs/sha256")), [""; 0]);
        }
        world.assert_untouched();
        world.assert_nothing_half_done();
    }
}
