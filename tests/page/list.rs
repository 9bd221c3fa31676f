//! The list of revisions.

use crate::browser::{Browser, LOOKS, Tools};
use crate::source::{Revisions, Served};
use serde_json::json;

const DESK: crate::browser::Look = LOOKS[0];
/// Keys by their code points in WebDriver.
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const DOWN: &str = "\u{e015}";
const END: &str = "\u{e010}";
const HOME: &str = "\u{e011}";
const TAB: &str = "\u{e004}";

const FIRST: &str = "document.querySelector('#body a').getAttribute('title')";
const FOCUSED: &str = "document.activeElement.getAttribute('title')";

async fn open(browser: &Browser<'_>, served: &Served, count: usize) {
    browser.open(&served.url, DESK).await;
    browser.until(&format!("return document.getElementById('count').innerText === '{count} revisions'")).await;
}

pub(crate) async fn by_keyboard(tools: &Tools) {
    let (served, browser) = (Served::start(5_000).await, Browser::start(tools).await);
    open(&browser, &served, 5_000).await;
    // The most urgent first, and each kind of trouble is counted.
    browser.until(&format!("return {FIRST} === '{}'", Revisions::key(0))).await;
    let states = browser.text("states").await;
    for state in ["to mend 1", "stuck 1", "at max 1", "panic 1", "starting 1", "at zero "] {
        assert!(states.contains(state), "{state} is not among: {states}");
    }

    browser.press("/").await;
    browser.press("04711").await;
    browser.until("return document.getElementById('count').innerText === '1 of 5000 revisions'").await;
    assert_eq!(browser.run(&format!("return {FIRST}")).await, json!(Revisions::key(4711).as_str()));
    browser.press(ENTER).await;
    browser
        .until(&format!("return document.getElementById('one-title').innerText === '{}'", Revisions::key(4711)))
        .await;
    browser.until("return document.getElementById('sentence').innerText !== ''").await;
    browser.press(ESCAPE).await;
    browser.until(&format!("return {FOCUSED} === '{}'", Revisions::key(4711))).await;

    // Back in the search field, the text goes with Escape.
    browser.press("/").await;
    browser.press(ESCAPE).await;
    browser.until("return document.getElementById('count').innerText === '5000 revisions'").await;

    // The heads are buttons, so that Tab and Enter sort.
    browser.run("document.querySelector('#states button:last-child').focus()").await;
    browser.until("return document.activeElement.dataset.state === 'at zero'").await;
    browser.press(TAB).await;
    browser.press(ENTER).await;
    let sorted = "return document.querySelector('th[data-by=key]').getAttribute('aria-sort')";
    assert_eq!(browser.run(sorted).await, json!("ascending"));
    let by_name = (0..5_000).map(Revisions::key).min().expect("some");
    browser.until(&format!("return {FIRST} === '{by_name}'")).await;
    browser.press(ENTER).await;
    assert_eq!(browser.run(sorted).await, json!("descending"));
    let last_by_name = (0..5_000).map(Revisions::key).max().expect("some");
    browser.until(&format!("return {FIRST} === '{last_by_name}'")).await;

    // Down into the rows, and through all of them.
    browser.run("document.querySelector('#body a').focus()").await;
    browser.press(END).await;
    browser.until(&format!("return {FOCUSED} === '{by_name}'")).await;
    let place = "document.activeElement.closest('tr').getAttribute('aria-rowindex')";
    assert_eq!(browser.run(&format!("return {place}")).await, json!("5001"));
    assert_eq!(
        browser.run("return document.getElementById('rows').getAttribute('aria-rowcount')").await,
        json!("5001")
    );
    browser.press(HOME).await;
    browser.press(DOWN).await;
    browser.press(DOWN).await;
    browser.until(&format!("return {place} === '4'")).await;

    // What somebody moves through stays in its order while the numbers change.
    browser.run("document.querySelector('th[data-by=stable] button').click()").await;
    browser.run("document.querySelectorAll('#body a')[3].focus()").await;
    let order = "return [...document.querySelectorAll('#body a')].slice(0, 10).map((a) => a.title).join()";
    let before = browser.run(order).await;
    for _ in 0..2 {
        let shown = browser.run("return document.getElementById('asof').innerText").await;
        served.revisions.look(ebb::clock::Clock::system().now());
        browser.until(&format!("return document.getElementById('asof').innerText !== {shown}")).await;
    }
    assert_eq!(browser.run(order).await, before);
    browser.quiet("by keyboard").await;
}

pub(crate) async fn scrolled(tools: &Tools) {
    let (served, browser) = (Served::start(5_000).await, Browser::start(tools).await);
    open(&browser, &served, 5_000).await;
    browser.until("return document.querySelectorAll('#body tr').length > 20").await;
    for top in [0, 1_000, 77_777, 1_000_000] {
        browser.run(&format!("document.getElementById('scroller').scrollTop = {top}")).await;
        // Every place in sight has its row.
        browser
            .until(
                "const box = document.getElementById('scroller').getBoundingClientRect();
                 const at = (y) => document.elementFromPoint(box.left + 20, y)?.closest('tr')?.dataset.key;
                 return !!at(box.top + 60) && !!at(box.top + box.height / 2) && !!at(box.bottom - 20)",
            )
            .await;
        let rows = browser.run("return document.querySelectorAll('#body tr').length").await.as_u64();
        assert!(rows.is_some_and(|rows| rows < 100), "{rows:?} rows exist");
    }
    // However wide a screen is, names can be read: what else there is to a row makes room.
    for width in [390, 600, 761, 900, 1_061, 1_280] {
        browser.open(&served.url, crate::browser::Look { width, ..DESK }).await;
        browser.until("return document.querySelectorAll('#body a').length > 10").await;
        let room = browser.run("return document.querySelector('#body a').closest('td').clientWidth").await;
        assert!(room.as_u64() >= Some(180), "{room} pixels of {width} are for names");
    }
    browser.quiet("scrolled").await;
}

/// Prints what thousands of rows cost; how long that may be depends on the machine, so nothing is asserted of it.
pub(crate) async fn cost(tools: &Tools) {
    let (served, browser) = (Served::start(5_000).await, Browser::start(tools).await);
    open(&browser, &served, 5_000).await;
    let steps = 200_u32;
    for (what, step) in [
        ("scrolling by half a screen", "document.getElementById('scroller').scrollTop += 350"),
        (
            "searching, letter by letter",
            "const search = document.getElementById('search'); search.value = '04711'.slice(0, frame % 6); \
             search.dispatchEvent(new Event('input'))",
        ),
        ("sorting by another column", "document.querySelectorAll('thead button')[frame % 8].click()"),
    ] {
        let (script, layout) = browser.spent().await;
        let longest = browser
            .wait(&format!(
                "let frame = 0, longest = 0, before = performance.now();
                 const next = (now) => {{
                   longest = Math.max(longest, now - before);
                   before = now;
                   if (frame++ === {steps}) return done(longest);
                   {step};
                   requestAnimationFrame(next);
                 }};
                 requestAnimationFrame(next)"
            ))
            .await;
        let (scripts, layouts) = browser.spent().await;
        let each = |spent: f64| spent / f64::from(steps);
        crate::patience::say(&format!(
            "5,000 rows, {what}: {:.2} ms of script and {:.2} ms of layout for each frame, {:.0} ms the longest between two",
            each(scripts - script),
            each(layouts - layout),
            longest.as_f64().expect("milliseconds"),
        ));
    }
    let seen = browser.run("return document.querySelectorAll('#body tr').length > 20").await;
    assert_eq!(seen, json!(true), "rows are still there");
    browser.quiet("cost").await;
}

pub(crate) async fn unanswered(tools: &Tools) {
    let (served, browser) = (Served::start(3).await, Browser::start(tools).await);
    open(&browser, &served, 3).await;
    served.cancel.cancel();
    browser.until("return document.getElementById('problem').innerText.startsWith('No answer')").await;
    // What was known is still there.
    assert_eq!(browser.text("count").await, "3 revisions");
}

pub(crate) async fn accessible(tools: &Tools) {
    let (served, browser) = (Served::start(300).await, Browser::start(tools).await);
    for look in LOOKS {
        browser.open(&served.url, look).await;
        browser.until("return document.getElementById('count').innerText === '300 revisions'").await;
        browser.judge("list", look).await;
        // By day and by night it is not the same.
        let back = browser.run("return getComputedStyle(document.body).backgroundColor").await;
        let light = back.as_str().is_some_and(|color| color.contains("247, 248, 249"));
        assert_eq!(light, look.scheme == "light", "{back}");
        let wide = browser.run("return document.documentElement.scrollWidth <= innerWidth").await;
        assert_eq!(wide, json!(true), "{look:?} is too narrow for the page");
    }
}
