//! One revision.

use crate::browser::{Browser, LOOKS, Tools};
use crate::patience::eventually;
use crate::source::{Revisions, Served};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const DESK: crate::browser::Look = LOOKS[0];
const LEFT: &str = "\u{e012}";
const END: &str = "\u{e010}";

/// A running `ebb local` with ports of its own.
struct Local {
    child: Child,
    endpoints: Value,
    _directory: tempfile::TempDir,
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Local {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ports = ["--gateway", "--api", "--admin", "--stats"].iter().flat_map(|flag| [*flag, "127.0.0.1:0"]);
        let child = Command::new(env!("CARGO_BIN_EXE_ebb"))
            .arg("local")
            .args(ports)
            .args(["--window", "10s", "--state-dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the ebb binary");
        let file = directory.path().join("endpoints.json");
        let read = async || {
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        let endpoints = eventually("ebb local is ready", read).await;
        Self { child, endpoints, _directory: directory }
    }

    fn at(&self, name: &str) -> &str {
        self.endpoints[name].as_str().expect("an address")
    }
}

pub(crate) async fn under_load(tools: &Tools) {
    let (local, browser) = (Local::start().await, Browser::start(tools).await);
    let admin = local.at("admin");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let (url, stop) = (format!("{}/?sleep=100ms", local.at("gateway")), Arc::clone(&stop));
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(&url).header("Host", "hello.default.example.com").send().await;
                    assert_eq!(answer.expect("an answer").status(), 200);
                }
            })
        })
        .collect();
    browser.open(&format!("{admin}/#/default/hello-00001"), DESK).await;
    // The page shows what is decided, as it is decided.
    browser.until("return document.querySelectorAll('#changes time').length > 0").await;
    browser.until("return /It wants/.test(document.getElementById('sentence').innerText)").await;
    browser.until("return document.querySelector('#drawing path.stable').getAttribute('d').includes('L')").await;
    browser.until("return document.querySelectorAll('#drawing path.change').length > 0").await;
    browser.judge("load", DESK).await;

    // The same words in all places. A decision later they may be others, so both are asked until they are of one.
    let explain = async || {
        let url = format!("{admin}/explain/default/hello-00001?format=json");
        reqwest::get(url).await.expect("an answer").json::<Value>().await.expect("JSON")
    };
    eventually("page and explain say the same", async || {
        let page = browser
            .run(
                "return [document.getElementById('sentence').innerText, \
            [...document.querySelectorAll('#rules li')].map((li) => li.firstChild.textContent), \
            [...document.querySelectorAll('#ways li')].map((li) => li.innerText), \
            [...document.querySelectorAll('#facts dd')].map((dd) => dd.innerText)]",
            )
            .await;
        let told = explain().await;
        let list = |of: &Value, field: &Value| -> Vec<Value> {
            of.as_array()
                .expect("a list")
                .iter()
                .map(|item| if field.is_null() { item.clone() } else { item[field.as_str().expect("a name")].clone() })
                .collect()
        };
        let facts: Vec<_> = told["facts"].as_array().expect("a list").iter().map(|fact| fact[1].clone()).collect();
        let said = json!([
            told["sentence"],
            list(&told["words"], &json!("text")),
            list(&told["wouldChange"], &Value::Null),
            facts
        ]);
        if page == said { Ok(()) } else { Err(format!("page: {page}\nexplain: {said}")) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every request was answered");
    }
    // Back in the list, the revision is there.
    browser.run("location.hash = '#/'").await;
    browser.until("return document.querySelector('#body a')?.title === 'default/hello-00001'").await;
    browser.quiet("under load").await;
}

pub(crate) async fn moments(tools: &Tools) {
    let (served, browser) = (Served::start(30).await, Browser::start(tools).await);
    browser.open(&format!("{}/#/{}", served.url, Revisions::key(9)), DESK).await;
    let moment = "(document.getElementById('moment').getAttribute('aria-valuetext') ?? '')";
    browser
        .until(&format!("return {moment}.startsWith('now: stable window ') && {moment}.includes(', panic, ')"))
        .await;
    browser.run("document.getElementById('moment').focus()").await;
    for _ in 0..50 {
        browser.press(LEFT).await;
    }
    browser.until("return /^At \\d\\d:\\d\\d:\\d\\d$/.test(document.getElementById('chart-title').innerText)").await;
    assert_eq!(
        browser.run(&format!("return /^\\d\\d:\\d\\d:\\d\\d: stable window /.test({moment})")).await,
        json!(true)
    );
    assert_eq!(
        browser.run("return document.querySelector('.cursor').getAttribute('visibility')").await,
        json!("visible")
    );
    browser.press(END).await;
    browser.until("return document.getElementById('chart-title').innerText === 'The last 15 minutes'").await;
    browser.run("document.querySelector('input[value=\"1h\"]').click()").await;
    browser.until("return document.getElementById('chart-title').innerText === 'The last hour'").await;
    browser.quiet("moments").await;
}

pub(crate) async fn behind_a_load_balancer(tools: &Tools) {
    let (served, browser) = (Served::start(30).await, Browser::start(tools).await);
    browser.open(&format!("{}/#/{}", served.url, Revisions::key(15)), DESK).await;
    // All the way to zero and back is within the last quarter of an hour.
    for kind in ["pods", "changing", "activators", "held"] {
        browser.until(&format!("return document.querySelectorAll('#drawing .strip.gate-{kind}').length > 0")).await;
    }
    let moment = "document.getElementById('moment')";
    browser.run(&format!("{moment}.value = 500; {moment}.dispatchEvent(new Event('input'))")).await;
    browser
        .until(&format!("return /, load balancer (to|changing|did not)/.test({moment}.getAttribute('aria-valuetext'))"))
        .await;
    browser.judge("one-15", DESK).await;
    // Nothing is said of one where there is none.
    browser.open(&format!("{}/#/{}", served.url, Revisions::key(9)), DESK).await;
    browser.until("return document.querySelectorAll('#drawing path.stable').length === 1").await;
    assert_eq!(
        browser.run("return document.querySelectorAll('#drawing [class*=gate-]:not([hidden] *)').length").await,
        json!(0)
    );
    browser.quiet("behind a load balancer").await;
}

pub(crate) async fn unknown(tools: &Tools) {
    let (served, browser) = (Served::start(30).await, Browser::start(tools).await);
    // A name that would be a program, if anybody took it for one.
    browser.open(&format!("{}/#/team-03/shop%3Cimg%20src=x%20onerror=alert(1)%3E", served.url), DESK).await;
    browser.until("return /is not known/.test(document.getElementById('problem').innerText)").await;
    assert_eq!(browser.run("return document.querySelectorAll('main img').length").await, json!(0));
    // And there is nothing to be looked at.
    let shown = "return [...document.querySelectorAll('#one h2')].filter((head) => head.offsetParent).length";
    assert_eq!(browser.run(shown).await, json!(0));
    // The browser itself notes that the answer was 404, and nothing else.
    let said = browser.console().await;
    let said = said.as_array().expect("a list");
    assert!(said.iter().all(|line| line["message"].as_str().is_some_and(|text| text.contains("404"))), "{said:?}");
}

pub(crate) async fn accessible(tools: &Tools) {
    let (served, browser) = (Served::start(30).await, Browser::start(tools).await);
    for number in [0, 3, 6, 9, 1] {
        for look in LOOKS {
            browser.open(&format!("{}/#/{}", served.url, Revisions::key(number)), look).await;
            browser.until("return document.querySelectorAll('#drawing path.stable').length === 1").await;
            browser.judge(&format!("one-{number}"), look).await;
            let wide = browser.run("return document.documentElement.scrollWidth <= innerWidth").await;
            assert_eq!(wide, json!(true), "{look:?} is too narrow for the page");
        }
    }
}
