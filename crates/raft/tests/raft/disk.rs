//! What reaches the disk, and how often.

use crate::harness::{Cluster, committed, id, put};

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_an_fsync_and_one_writer_pays_one_each() {
    let cluster = Cluster::of(1, |_| ()).await;
    let server = cluster.server(id(1));
    let before = server.disk_stats();
    for number in 0..50 {
        committed(server.propose(put(number)).await);
    }
    let alone = server.disk_stats();
    assert!(
        alone.fsyncs - before.fsyncs >= 50,
        "each was acknowledged after an fsync of its own: {before:?} {alone:?}"
    );
    let writers: Vec<_> = (0..64u64)
        .map(|writer| {
            let server = server.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    committed(server.propose(put(1000 + writer * 100 + number)).await);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let together = server.disk_stats();
    let (entries, fsyncs) = (together.entries - alone.entries, together.fsyncs - alone.fsyncs);
    println!("{entries} entries, {fsyncs} fsyncs");
    // How many share one depends on how fast the disk is beside the processor; that none does would be wrong anywhere.
    assert!(
        entries >= 3200 && fsyncs * 10 < entries * 9,
        "{entries} entries took {fsyncs} fsyncs"
    );
    cluster.stop_all().await;
}
