//! `COPY`, `ADD` and `WORKDIR` without a container.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::{Arc, Mutex};

use crate::support::{Lab, can_run};

#[test]
fn destinations_are_folders_or_files_as_in_docker() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    lab.write("a.txt", "a");
    lab.write("b.txt", "b");
    lab.write("dir/sub/c.txt", "c");
    symlink("c.txt", lab.context().join("dir/sub/link")).expect("link");
    let built = lab.build(
        "FROM busybox\n\
         COPY a.txt /new/name\n\
         COPY a.txt /folder/\n\
         COPY a.txt /etc\n\
         COPY *.txt /all/\n\
         COPY dir /copied\n\
         COPY dir/ /copied/again\n\
         WORKDIR /place/deep\n\
         COPY a.txt relative\n\
         COPY dir/sub/link /followed\n",
    );
    for path in [
        "new/name",
        "folder/a.txt",
        "etc/a.txt",
        "all/a.txt",
        "place/deep/relative",
    ] {
        assert_eq!(built.read(path), "a", "{path}");
    }
    assert_eq!(built.read("all/b.txt"), "b");
    assert_eq!(built.read("copied/sub/c.txt"), "c");
    assert_eq!(built.read("copied/again/sub/c.txt"), "c");
    assert!(built.stat("copied/sub/link").is_symlink());
    assert!(built.stat("followed").is_file());
    assert_eq!(built.owner("place"), "755 0 0");
}

#[test]
fn owners_and_modes_are_set_as_asked() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    lab.write("dir/file", "x");
    lab.write("dir/run.sh", "#!/bin/sh");
    let built = lab.build(
        "FROM busybox\n\
         COPY --chown=app dir /a\n\
         COPY --chown=app:logs --chmod=0640 dir/file /b\n\
         COPY --chown=12:34 dir/file /c\n\
         COPY --chown=12 dir/file /d\n\
         COPY --chmod=u=rwx,go=rX dir /e\n\
         COPY --chown=app dir/file /new/parent/f\n\
         COPY --link --chown=app dir/file /linked/f\n\
         USER app\n\
         WORKDIR /of/app\n",
    );
    for (path, expected) in [
        ("a", "755 1000 1001"),
        ("a/file", "644 1000 1001"),
        ("b", "640 1000 50"),
        ("c", "644 12 34"),
        ("d", "644 12 12"),
        ("e", "755 0 0"),
        ("e/file", "755 0 0"),
        ("new/parent", "755 1000 1001"),
        ("linked/f", "644 1000 1001"),
        ("of/app", "755 1000 1001"),
    ] {
        assert_eq!(built.owner(path), expected, "{path}");
    }
    assert_eq!(built.document.config.working_dir, "/of/app");
    let (failed, _) = lab.try_build("FROM busybox\nCOPY --chown=nobody-here dir /a\n");
    let problem = failed.expect_err("no such user");
    assert!(
        problem.object == "Dockerfile:2" && problem.reason.contains("nobody-here"),
        "{problem}"
    );
}

#[test]
fn patterns_exclusions_and_parents() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    for path in ["src/a.c", "src/a.o", "src/deep/b.c", "src/deep/b.o", "docs/x/y/z.md"] {
        lab.write(path, path);
    }
    let built = lab.build(
        "FROM busybox\n\
         COPY --exclude=**/*.o src /one\n\
         COPY --parents docs/*/y /two/\n\
         COPY --parents src/./deep/*.c /three/\n\
         COPY none-at-all* src/a.c /four/\n",
    );
    assert!(built.path("one/a.c").is_some() && built.path("one/deep/b.c").is_some());
    assert!(built.path("one/a.o").is_none() && built.path("one/deep/b.o").is_none());
    assert_eq!(built.read("two/docs/x/y/z.md"), "docs/x/y/z.md");
    assert_eq!(built.read("three/deep/b.c"), "src/deep/b.c");
    assert!(built.path("three/src").is_none());
    assert_eq!(built.read("four/a.c"), "src/a.c");
}

#[test]
fn links_of_an_image_never_lead_out_of_its_root() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    let victim = lab.folder.path().join("victim");
    fs::create_dir(&victim).expect("folder");
    fs::write(victim.join("secret"), "secret").expect("file");
    lab.write("file", "mine");
    symlink(victim.join("secret"), lab.context().join("outside")).expect("link");
    let out = victim.display();
    let built = lab.build(&format!(
        "FROM busybox\nRUN ln -s {out} /absolute && ln -s ../../../..{out} /relative\nCOPY file /absolute/\nCOPY file /relative/\n"
    ));
    assert_eq!(fs::read_dir(&victim).expect("folder").count(), 1);
    assert_eq!(
        built.read(&format!("{}/file", out.to_string().trim_start_matches('/'))),
        "mine"
    );
    let (failed, _) = lab.try_build("FROM busybox\nCOPY outside /stolen\n");
    let problem = failed.expect_err("it leads out of the context");
    assert!(problem.to_string().contains("not found"), "{problem}");
    let (failed, _) = lab.try_build(&format!(
        "FROM busybox AS a\nRUN ln -s {out}/secret /leak\nFROM busybox\nCOPY --from=a /leak /stolen\n"
    ));
    assert!(
        failed
            .expect_err("it leads out of the stage")
            .to_string()
            .contains("not found")
    );
}

#[test]
fn archives_are_unpacked_by_add_alone() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o750);
    header.set_uid(33);
    header.set_gid(34);
    header.set_mtime(1000);
    header.set_size(5);
    tar.append_data(&mut header, "inner/file", &b"hello"[..]).expect("tar");
    let plain = tar.into_inner().expect("tar");
    let compress = |name: &str, tool: &[&str]| {
        let path = lab.context().join(name);
        let mut child = std::process::Command::new(tool[0])
            .args(&tool[1..])
            .stdin(std::process::Stdio::piped())
            .stdout(fs::File::create(&path).expect("file"))
            .spawn();
        match &mut child {
            Ok(child) => {
                child.stdin.take().expect("piped").write_all(&plain).expect("writes");
                assert!(child.wait().expect("ends").success());
                true
            }
            Err(error) => {
                eprintln!("SKIPPED: {} is missing: {error}", tool[0]);
                fs::remove_file(&path).expect("removes");
                false
            }
        }
    };
    fs::write(lab.context().join("plain.tar"), &plain).expect("file");
    let mut dockerfile = "FROM busybox\nADD plain.tar /plain/\nCOPY plain.tar /kept/\nADD --chown=app plain.tar /owned\nADD --unpack=false plain.tar /whole/\n".to_string();
    let mut names = vec!["plain"];
    for (name, tool) in [
        ("gz", &["gzip", "-c"][..]),
        ("bz2", &["bzip2", "-c"]),
        ("xz", &["xz", "-c"]),
        ("zst", &["zstd", "-c", "-q"]),
    ] {
        if compress(name, tool) {
            dockerfile += &format!("ADD {name} /{name}\n");
            names.push(name);
        }
    }
    let built = lab.build(&dockerfile);
    for name in names {
        let path = format!("{name}/inner/file");
        assert_eq!(
            (built.read(&path), built.owner(&path)),
            ("hello".to_string(), "750 33 34".to_string()),
            "{name}"
        );
        assert_eq!(built.stat(&path).mtime(), 1000);
    }
    assert!(built.stat("kept/plain.tar").is_file() && built.stat("whole/plain.tar").is_file());
    assert_eq!(built.owner("owned/inner/file"), "750 1000 1001");
}

#[test]
fn hard_links_and_special_files_of_a_stage_stay_what_they_are() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    let built = lab.build(
        "FROM busybox AS a\nRUN mkdir /d && echo x > /d/one && ln /d/one /d/two && chmod 4711 /d/one && busybox mkfifo /d/pipe && ln -s one /d/link\n\
         FROM busybox\nCOPY --from=a /d /d\n",
    );
    assert_eq!(built.stat("d/one").ino(), built.stat("d/two").ino());
    assert_eq!(built.owner("d/one"), "4711 0 0");
    use std::os::unix::fs::FileTypeExt;
    assert!(built.stat("d/pipe").file_type().is_fifo() && built.stat("d/link").is_symlink());
}

#[test]
fn here_documents_become_files() {
    if !can_run() {
        return;
    }
    let lab = Lab::with_busybox();
    let built = lab.build("FROM busybox\nARG NAME=world\nCOPY <<ONE <<'TWO' /files/\nhello $NAME\nONE\nhello $NAME\nTWO\nRUN <<EOF\necho first > /first\necho second > /second\nEOF\n");
    assert_eq!(built.read("files/ONE"), "hello world\n");
    assert_eq!(built.read("files/TWO"), "hello $NAME\n");
    assert_eq!(built.read("second"), "second\n");
}

/// A web server with one file; says how often it was sent, and how often it had not changed.
struct Web {
    address: String,
    file: Arc<Mutex<(String, String)>>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl Web {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/file.txt", listener.local_addr().expect("bound"));
        let web = Self {
            address,
            file: Arc::default(),
            answers: Arc::default(),
        };
        let (file, answers) = (Arc::clone(&web.file), Arc::clone(&web.answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut lines = Vec::new();
                for line in BufReader::new(&stream).lines() {
                    let line = line.expect("a request").to_ascii_lowercase();
                    if line.is_empty() {
                        break;
                    }
                    lines.push(line);
                }
                let (etag, text) = file.lock().expect("lock").clone();
                let is_known = !etag.is_empty() && lines.contains(&format!("if-none-match: {etag}"));
                let (status, text) = if is_known { (304, String::new()) } else { (200, text) };
                answers.lock().expect("lock").push(status);
                let mark = if etag.is_empty() {
                    etag
                } else {
                    format!("etag: {etag}\r\n")
                };
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{mark}connection: close\r\n\r\n",
                    text.len()
                );
                stream.write_all(format!("{head}{text}").as_bytes()).expect("answered");
            }
        });
        web
    }

    fn serve(&self, etag: &str, text: &str) {
        *self.file.lock().expect("lock") = (etag.to_string(), text.to_string());
    }

    fn answers(&self) -> Vec<u16> {
        std::mem::take(&mut *self.answers.lock().expect("lock"))
    }
}

#[test]
fn a_download_that_did_not_change_is_not_sent_again() {
    if !can_run() {
        return;
    }
    let (mut lab, web) = (Lab::with_busybox(), Web::start());
    let dockerfile = format!("FROM busybox\nADD {} /\n", web.address);
    web.serve("\"one\"", "one");
    assert_eq!(lab.build(&dockerfile).read("file.txt"), "one");
    assert_eq!(web.answers(), [200]);
    assert_eq!(lab.build(&dockerfile).seen.worked(), Vec::<String>::new());
    assert_eq!(web.answers(), [304]);
    web.serve("\"two\"", "two");
    assert_eq!(lab.build(&dockerfile).read("file.txt"), "two");
    assert_eq!(web.answers(), [200]);
    // Contents that are gone are sent again, and so are all when nothing is to be known.
    lab.builder.prune(gantry_model::DurationMs(0), false).expect("pruned");
    assert_eq!(lab.build(&dockerfile).read("file.txt"), "two");
    lab.request.spec.no_cache = true;
    assert_eq!(lab.build(&dockerfile).read("file.txt"), "two");
    assert_eq!(web.answers(), [200, 200]);
    // A server that marks nothing is asked for everything.
    lab.request.spec.no_cache = false;
    web.serve("", "three");
    assert_eq!(lab.build(&dockerfile).read("file.txt"), "three");
    assert_eq!(
        lab.build(&dockerfile).seen.worked(),
        Vec::<String>::new(),
        "the content is the same"
    );
    assert_eq!(web.answers(), [200, 200]);
}
