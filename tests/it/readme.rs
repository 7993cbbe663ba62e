//! Acceptance 2: the README's curl lines work as printed against `quarry demo --serve`.

use std::fs;
use std::process::Command;

use crate::server::{Project, Server, environment, root};

/// Where the README's lines point.
const PRINTED: &str = "http://localhost:4000";

/// The fenced `sh` blocks that hold a curl line, without prompts.
fn curl_blocks(readme: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<Vec<&str>> = None;
    for line in readme.lines() {
        match (&mut open, line.trim()) {
            (None, "```sh") => open = Some(Vec::new()),
            (Some(_), "```") => blocks.extend(open.take().map(|lines| lines.join("\n"))),
            (Some(lines), _) => lines.push(line),
            (None, _) => {}
        }
    }
    blocks.retain(|block| block.lines().any(|line| line.trim_start().starts_with("curl ")));
    blocks
}

#[test]
fn the_readmes_curl_lines_work() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let blocks = curl_blocks(&readme);
    assert!(!blocks.is_empty(), "the README shows no curl line in a block of sh");
    assert!(blocks.iter().all(|block| block.contains(PRINTED)), "they point to {PRINTED}: {blocks:?}");
    // The README calls the folder `shop`, and the blocks run beside it.
    let folder = Project::empty();
    let server = Server::spawn(folder.path(), &[], &["demo", "shop", "--serve", "--port", "0"]);
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_quarry")).parent().expect("a folder");
    let search = format!("{}:{}", binaries.display(), environment("PATH").unwrap_or_default());
    for block in blocks {
        let script = block.replace(PRINTED, &format!("http://127.0.0.1:{}", server.port()));
        let output = Command::new("sh")
            .args(["-eu", "-c", &script])
            .current_dir(folder.path())
            .env("PATH", &search)
            .output()
            .expect("sh can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{block}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!text.trim().is_empty(), "no answer to {block}");
        assert!(!text.contains("\"error\""), "{block}\n{text}");
        assert!(!text.contains("failure"), "{block}\n{text}");
    }
    server.assert_alive();
}

#[test]
fn blocks_with_curl_are_found() {
    let readme = "x\n```sh\nmake demo\n```\n```sh\nTOKEN=1\ncurl -s a \\\n  -d '{}'\n```\n```json\ncurl no\n```\n";
    assert_eq!(curl_blocks(readme), ["TOKEN=1\ncurl -s a \\\n  -d '{}'"]);
}
