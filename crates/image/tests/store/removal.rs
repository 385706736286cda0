//! What goes, and what must not.

use std::collections::BTreeSet;

use gantry_image::ImageError;

use crate::fixtures::{TarMaker, World, docker_archive, names, reference};

#[test]
fn shared_layers_stay_until_the_last_image_goes() {
    let world = World::new();
    let shared = TarMaker::default().file("a", "1").end();
    let own = TarMaker::default().file("b", "2").end();
    let base = world
        .store
        .load(docker_archive("base", std::slice::from_ref(&shared)).as_slice())
        .expect("loaded")[0]
        .digest;
    let both = world
        .store
        .load(docker_archive("both", &[shared, own]).as_slice())
        .expect("loaded")[0]
        .digest;
    world.store.unpack(base).expect("unpacked");
    world.store.unpack(both).expect("unpacked");
    let none = BTreeSet::new();
    let removed = world.store.remove(&reference("both").into(), &none).expect("removed");
    assert_eq!(
        (removed.deleted, removed.untagged),
        (vec![both], vec![reference("both")])
    );
    assert!(removed.freed.0 > 0);
    assert_eq!(names(&world.dir().join("layers")).len(), 1);
    assert_eq!(world.store.unpack(base).expect("still there").len(), 1);
    world.store.remove(&base.into(), &none).expect("removed");
    for folder in ["layers", "blobs/sha256", "tmp"] {
        assert_eq!(names(&world.dir().join(folder)), [""; 0], "{folder}");
    }
}

#[test]
fn what_is_in_use_stays() {
    let world = World::new();
    let image = world
        .import(&TarMaker::default().file("a", "1").end(), "a")
        .expect("imported")
        .digest;
    let in_use = BTreeSet::from([image]);
    assert!(matches!(
        world.store.remove(&image.into(), &in_use),
        Err(ImageError::InUse { .. })
    ));
    let removed = world
        .store
        .remove(&reference("a").into(), &in_use)
        .expect("only its name");
    assert_eq!((removed.deleted, removed.untagged), (vec![], vec![reference("a")]));
    assert_eq!(world.store.prune(&in_use).expect("nothing to do").deleted, []);
    assert!(world.store.unpack(image).is_ok());
    assert_eq!(
        world.store.prune(&BTreeSet::new()).expect("now it may go").deleted,
        [image]
    );
    assert!(matches!(world.store.unpack(image), Err(ImageError::NotFound { .. })));
}

#[test]
fn an_image_goes_with_its_last_name() {
    let world = World::new();
    let image = world
        .import(&TarMaker::default().file("a", "1").end(), "a")
        .expect("imported")
        .digest;
    world.store.tag(&reference("b"), image).expect("tagged");
    let none = BTreeSet::new();
    assert_eq!(
        world
            .store
            .remove(&reference("a").into(), &none)
            .expect("untagged")
            .deleted,
        []
    );
    assert!(
        world.store.remove(&reference("a").into(), &none).is_err(),
        "it is gone already"
    );
    assert_eq!(
        world
            .store
            .remove(&reference("b").into(), &none)
            .expect("removed")
            .deleted,
        [image]
    );
}
