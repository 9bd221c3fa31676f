//! `ebb sim` as a user runs it: the built binary on scenario files.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn ebb(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
    command.args(arguments).current_dir(crate::root()).stdin(Stdio::null()).env_remove("EBB_LOG");
    command.output().expect("the ebb binary")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The examples at the end of the help of a subcommand.
fn examples(subcommand: &str) -> Vec<Vec<String>> {
    let help = ebb(&["sim", subcommand, "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = text(&help.stdout).to_owned();
    let (_, after) = help.split_once("Examples:").unwrap_or_else(|| panic!("no examples in\n{help}"));
    let lines = after.lines().skip(1).take_while(|line| line.trim().starts_with("ebb "));
    lines.map(|line| line.split_whitespace().skip(1).map(ToOwned::to_owned).collect()).collect()
}

#[test]
fn the_examples_of_the_help_work() {
    for subcommand in ["check", "run"] {
        let examples = examples(subcommand);
        assert!(examples.len() >= 2, "{examples:?}");
        for example in examples {
            // What a shell would do.
            let all = std::fs::read_dir(crate::root().join("simulations")).expect("simulations");
            let all: Vec<String> = all
                .map(|entry| format!("simulations/{}", entry.expect("an entry").file_name().display()))
                .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "yaml"))
                .collect();
            let words = example
                .iter()
                .flat_map(|word| if word == "simulations/*.yaml" { all.clone() } else { vec![word.clone()] });
            let words: Vec<String> = words.collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = ebb(&words);
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
            assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{words:?}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_one_thread_and_on_two() {
    let answer = |threads: &str, seed: &str| {
        let arguments =
            ["sim", "run", "simulations/hello.yaml", "--format", "json", "--threads", threads, "--seed", seed];
        let output = ebb(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        output.stdout
    };
    let one = answer("1", "42");
    assert!(one == answer("2", "42"), "two threads give something else");
    assert!(one != answer("1", "43"), "another seed gives something else");
    let answer: Value = serde_json::from_slice(&one).expect("JSON");
    assert_eq!(answer["version"], "ebb.sim/v1");
    assert_eq!(answer["outcomes"].as_array().map(Vec::len), Some(8), "two policies under four seeds");
}

#[test]
fn what_is_wrong_is_told_and_the_exit_code_says_which_kind_it_is() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("a writable directory");
        path.to_str().expect("a path").to_owned()
    };
    let hello = std::fs::read_to_string(crate::root().join("simulations/hello.yaml")).expect("hello");
    let misspelt = file("misspelt.yaml", &hello.replace("warm_up", "warmup"));
    let traced = hello.replace("synthetic: { poisson: { rate: 20 } }", "trace: { file: t.csv }");
    let missing = file("missing.yaml", &traced);
    let broken = file("broken.yaml", &traced.replace("t.csv", "broken.csv"));
    file("broken.csv", "minute,requests\n0,5\n1,-5\n");
    let absent = directory.path().join("absent.yaml").to_str().expect("a path").to_owned();
    for (arguments, code, wants) in [
        (["check", misspelt.as_str()], 1, "misspelt.yaml:5:1: warmup: unknown field; did you mean \"warm_up\"?"),
        (["check", missing.as_str()], 1, "t.csv cannot be read"),
        (["check", broken.as_str()], 1, "broken.csv:3:1: requests \"-5\" is not a number of requests"),
        (["check", absent.as_str()], 2, "absent.yaml cannot be read"),
        (["run", misspelt.as_str()], 2, "did you mean \"warm_up\"?"),
        (["run", broken.as_str()], 2, "broken.csv:3:1:"),
        (["replay", directory.path().to_str().expect("a path")], 2, "has no journal"),
    ] {
        let output = ebb(&[&["sim"], arguments.as_slice()].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(wants), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
    }
}

/// What is published is what this program says, byte for byte: the quickest run of each directory. All of them take
/// minutes: `simulations/runs/run --check`.
#[test]
fn published_runs_are_made_again() {
    let runs = crate::root().join("simulations/runs");
    let mut checked = 0;
    for entry in std::fs::read_dir(&runs).expect("published runs") {
        let directory = entry.expect("an entry").path();
        let Ok(commands) = std::fs::read_to_string(directory.join("commands")) else { continue };
        let quick = commands.lines().find_map(|line| line.strip_prefix("quick ")).expect("a quick run");
        let arguments: Vec<&str> = std::iter::once("sim").chain(quick.split_whitespace()).collect();
        let output = ebb(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let published = std::fs::read_to_string(directory.join("quick.txt")).expect("what it printed");
        assert!(
            text(&output.stdout) == published,
            "{} is not what is printed now; where the change is meant, make the runs again: simulations/runs/run {}\n{}",
            directory.join("quick.txt").display(),
            directory.display(),
            similar::TextDiff::from_lines(published.as_str(), text(&output.stdout)).unified_diff()
        );
        checked += 1;
    }
    assert!(checked > 0, "nothing is published in {}", runs.display());
}

#[test]
fn results_are_there_whole_or_not_at_all() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("occupied"), "mine").expect("a file");
    std::fs::create_dir_all(at("taken/report.html")).expect("a directory");
    for (output, wants) in [
        ("occupied", "occupied cannot be made; name another directory with --output"),
        ("occupied/below", "below cannot be made; name another directory with --output"),
        ("taken", "report.html is a directory; name another directory with --output"),
    ] {
        let place = at(output);
        let place = place.to_str().expect("a path");
        let answer = ebb(&["sim", "run", "simulations/hello.yaml", "--repetitions", "1", "--output", place]);
        let error = text(&answer.stderr);
        assert_eq!(answer.status.code(), Some(2), "{output}: {error}");
        assert!(error.contains(wants) && answer.stdout.is_empty(), "{output}: {error}");
    }
    assert_eq!(std::fs::read_to_string(at("occupied")).expect("a file"), "mine");
    assert_eq!(std::fs::read_dir(at("taken")).expect("a directory").count(), 1, "nothing was added");
}

#[test]
fn nothing_is_left_of_a_run_that_is_interrupted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let hello = std::fs::read_to_string(crate::root().join("simulations/hello.yaml")).expect("hello");
    let long = directory.path().join("long.yaml");
    // So long that it cannot have ended before it is interrupted.
    std::fs::write(&long, hello.replace("duration: 30m", "duration: 50000h")).expect("a file");
    let output = directory.path().join("results");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ebb"))
        .args(["sim", "run"])
        .arg(&long)
        .arg("--output")
        .arg(&output)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the ebb binary");
    let began = std::iter::repeat_with(|| std::thread::sleep(std::time::Duration::from_millis(20)))
        .take(3_000)
        .any(|()| std::fs::read_dir(&output).is_ok_and(|files| files.count() == 0));
    assert!(began, "it never made {}", output.display());
    // A shell may have it ignore what Ctrl-C sends, where it runs in the background; this it does not.
    crate::system::signal(&child, "TERM");
    let status = crate::system::wait(&mut child);
    assert!(!status.success(), "{status}");
    // The file by which it tries whether it may write may be there: it is empty and hidden.
    let left: Vec<String> = std::fs::read_dir(&output)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().display().to_string())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_journal_that_is_none_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = directory.path().to_str().expect("a path");
    std::fs::write(directory.path().join("notes.txt"), "no journal").expect("a file");
    let answer = ebb(&["sim", "replay", place]);
    assert_eq!(answer.status.code(), Some(2), "{}", text(&answer.stderr));
    let file = directory.path().join("notes.txt");
    let answer = ebb(&["sim", "replay", file.to_str().expect("a path")]);
    let error = text(&answer.stderr);
    assert_eq!(answer.status.code(), Some(2), "{error}");
    assert!(error.contains("notes.txt"), "{error}");
}
