//! A Chromium with a profile of its own, driven over WebDriver.

use crate::patience::eventually;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use url::{ParseError, Url};

/// What the tests need of this machine.
pub(crate) struct Tools {
    driver: PathBuf,
    browser: PathBuf,
    /// The source of axe-core.
    axe: String,
    shots: Option<PathBuf>,
    judged: AtomicUsize,
    rules: Mutex<BTreeSet<String>>,
}

/// How a page is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    pub(crate) scheme: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// A desk by day, a desk by night, a phone.
pub(crate) const LOOKS: [Look; 4] = [
    Look { scheme: "light", width: 1280, height: 900 },
    Look { scheme: "dark", width: 1280, height: 900 },
    Look { scheme: "light", width: 390, height: 844 },
    Look { scheme: "dark", width: 390, height: 844 },
];

impl Tools {
    /// Finds them, or says which is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let program = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
            found.ok_or_else(|| format!("there is no {name}"))
        };
        let axe = std::env::var_os("EBB_AXE").ok_or("EBB_AXE does not name axe.min.js of axe-core")?;
        let axe = PathBuf::from(axe);
        let axe = std::fs::read_to_string(&axe).map_err(|error| format!("{}: {error}", axe.display()))?;
        let shots = std::env::var_os("EBB_PAGE_SHOTS").map(PathBuf::from);
        if let Some(directory) = &shots {
            std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        Ok(Self {
            driver: program("chromedriver")?,
            browser: program("chromium")?,
            axe,
            shots,
            judged: AtomicUsize::new(0),
            rules: Mutex::default(),
        })
    }

    /// What was tested, in a line.
    pub(crate) fn summary(&self) -> String {
        let version = Command::new(&self.browser).arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let rules = self.rules.lock().expect("no panic above").len();
        format!(
            "the page in {}: {} views judged by {rules} rules of axe-core, no violation",
            version.unwrap_or_default(),
            self.judged.load(Ordering::Relaxed),
        )
    }
}

/// A browser with one window. It ends when this is dropped, by a test that fails too.
pub(crate) struct Browser<'t> {
    tools: &'t Tools,
    client: Client,
    // In this order: the browser ends before its driver, which waits for it, and both before their files go.
    _window: Window,
    _driver: Driver,
    _profile: tempfile::TempDir,
}

struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The browser's own process. A driver that ends leaves it behind, with its session open.
struct Window(Pid);

impl Drop for Window {
    fn drop(&mut self) {
        // It is ours until its driver has waited for it, so the number is nobody else's.
        let _ = kill_process(self.0, Signal::KILL);
        let there = format!("/proc/{}", self.0.as_raw_nonzero());
        let gone = |_: &usize| {
            std::thread::sleep(Duration::from_millis(10));
            !Path::new(&there).exists()
        };
        let _ = (0..200).find(gone);
    }
}

impl<'t> Browser<'t> {
    pub(crate) async fn start(tools: &'t Tools) -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let log = profile.path().join("driver.log");
        let driver = Command::new(&tools.driver)
            .args(["--port=0", &format!("--log-path={}", log.display())])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = Driver(driver.expect("chromedriver"));
        let port = port(&mut driver.0);
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &format!("--user-data-dir={}", profile.path().join("profile").display()),
        ];
        let capabilities: Capabilities = serde_json::from_value(json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": tools.browser, "args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }))
        .expect("an object");
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap_or_else(|error| panic!("{error}; {}", std::fs::read_to_string(&log).unwrap_or_default()));
        let process = client.capabilities().and_then(|told| told.get("goog:processID")?.as_i64());
        let process = process.and_then(|process| Pid::from_raw(process.try_into().ok()?));
        let window = Window(process.expect("chromedriver says which process the browser is"));
        Self { tools, client, _window: window, _driver: driver, _profile: profile }
    }

    /// Opens a page as somebody looks at it.
    pub(crate) async fn open(&self, url: &str, look: Look) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": look.scheme}]});
        self.devtools("Emulation.setEmulatedMedia", feature).await;
        self.resize(look).await;
        self.client.goto(url).await.expect("a page");
    }

    /// What a script answers.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The text of an element.
    pub(crate) async fn text(&self, id: &str) -> String {
        let script = format!("return document.getElementById({id:?})?.innerText ?? ''");
        self.run(&script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Types where the focus is, as a keyboard does.
    pub(crate) async fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})))
            .collect();
        let sources = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.send("actions", sources).await;
    }

    /// Waits until a script answers with true.
    pub(crate) async fn until(&self, script: &str) {
        eventually(script, async || match self.run(script).await {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{other}; the page: {}", self.text("main").await)),
        })
        .await;
    }

    /// Whether axe-core, and the console, have nothing to say against the page as it is.
    pub(crate) async fn judge(&self, name: &str, look: Look) {
        self.shoot(name, look).await;
        self.run(&format!("{}; window.axe = axe", self.tools.axe)).await;
        let script = "window.axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}) \
                      .then(done, (error) => done({error: String(error)}))";
        let judged = self.wait(script).await;
        assert_eq!(judged["violations"], json!([]), "{name} {look:?}");
        let passes = judged["passes"].as_array().unwrap_or_else(|| panic!("axe says {judged}"));
        assert!(passes.len() >= 20, "{name} {look:?}: axe found little to judge: {}", passes.len());
        let rules = passes.iter().filter_map(|rule| rule["id"].as_str().map(str::to_owned));
        self.tools.rules.lock().expect("no panic above").extend(rules);
        self.tools.judged.fetch_add(1, Ordering::Relaxed);
        self.quiet(name).await;
    }

    /// Nothing was complained of in the console, an asset that is missing or forbidden included.
    pub(crate) async fn quiet(&self, name: &str) {
        let said = self.send("se/log", json!({"type": "browser"})).await;
        assert_eq!(said, json!([]), "{name}: the console");
    }

    /// What the console says, for whoever expects something.
    pub(crate) async fn console(&self) -> Value {
        self.send("se/log", json!({"type": "browser"})).await
    }

    /// Keeps a picture of the whole page, if that is asked for.
    pub(crate) async fn shoot(&self, name: &str, look: Look) {
        let Some(directory) = &self.tools.shots else { return };
        let height = self.run("return document.documentElement.scrollHeight").await.as_u64().unwrap_or(0);
        let height = u32::try_from(height).unwrap_or(0).max(look.height);
        self.resize(Look { height, ..look }).await;
        let picture = self.client.screenshot().await.expect("a picture");
        let file = directory.join(format!("{name}-{}-{}.png", look.scheme, look.width));
        std::fs::write(file, picture).expect("a writable directory");
        self.resize(look).await;
    }

    /// What the page has taken of its thread so far, in milliseconds: by script, and by laying out and styling.
    pub(crate) async fn spent(&self) -> (f64, f64) {
        self.devtools("Performance.enable", json!({})).await;
        let told = self.devtools("Performance.getMetrics", json!({})).await;
        let of = |name: &str| {
            let metrics = told["metrics"].as_array().expect("metrics");
            let metric = metrics.iter().find(|metric| metric["name"] == name).expect("a metric");
            1_000.0 * metric["value"].as_f64().expect("seconds")
        };
        (of("ScriptDuration"), of("LayoutDuration") + of("RecalcStyleDuration"))
    }

    /// What a script that runs for a while answers in the end, by calling `done`.
    pub(crate) async fn wait(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1]; {script}");
        self.client.execute_async(&script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    async fn resize(&self, look: Look) {
        let metrics = json!({"width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.send("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    async fn send(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Extension { path, body }).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// A command of chromedriver beyond WebDriver's own.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// The port chromedriver chose, from what it prints.
fn port(driver: &mut Child) -> u16 {
    use std::io::BufRead as _;
    let output = std::io::BufReader::new(driver.stdout.take().expect("a pipe"));
    let mut lines = output.lines().map_while(Result::ok);
    let told = lines.find_map(|line| {
        let (_, port) = line.rsplit_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    // What else it prints must find a reader.
    std::thread::spawn(move || lines.for_each(drop));
    told.expect("chromedriver says on which port it listens")
}
