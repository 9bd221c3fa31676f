//! The page in a real Chromium: `tests/page/run`, or `cargo test --test page` with `chromedriver` and `chromium` to be
//! found and `EBB_AXE` naming the file `axe.min.js` of axe-core.
//!
//! Without them nothing is tested, and said so; with `EBB_PAGE` set that is a failure. `EBB_PAGE_SHOTS=DIR` keeps a
//! picture of everything that is looked at.

mod browser;
mod list;
mod one;
#[path = "../it/patience.rs"]
mod patience;
mod report;
mod source;

use browser::Tools;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Trial};
use patience::{say, wait_for};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let tools = match Tools::find() {
        Ok(tools) => Arc::new(tools),
        Err(missing) => {
            say(&format!("skipped: {missing}; tests/page/run installs it"));
            let asked_for = std::env::var_os("EBB_PAGE").is_some_and(|asked| !asked.is_empty());
            return if asked_for { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let mut arguments = Arguments::from_args();
    // A browser takes a core by itself.
    arguments.test_threads.get_or_insert(2);
    let mut trials = Vec::new();
    let mut trial = |name: &'static str, run: fn(&Tools) -> LocalBoxFuture<'_, ()>| {
        let tools = Arc::clone(&tools);
        trials.push(Trial::test(name, move || {
            wait_for(run(&tools));
            Ok(())
        }));
    };
    trial("list::thousands_of_rows_are_searched_and_sorted_by_keyboard", |tools| Box::pin(list::by_keyboard(tools)));
    trial("list::rows_in_sight_exist_and_no_others", |tools| Box::pin(list::scrolled(tools)));
    trial("list::thousands_of_rows_do_not_hold_up_a_browser", |tools| Box::pin(list::cost(tools)));
    trial("list::an_autoscaler_that_does_not_answer_is_told_of", |tools| Box::pin(list::unanswered(tools)));
    trial("list::everybody_can_read_it", |tools| Box::pin(list::accessible(tools)));
    trial("one::under_load_the_page_says_what_explain_says", |tools| Box::pin(one::under_load(tools)));
    trial("one::a_moment_is_chosen_by_keyboard", |tools| Box::pin(one::moments(tools)));
    trial("one::the_way_through_a_load_balancer_is_drawn", |tools| Box::pin(one::behind_a_load_balancer(tools)));
    trial("one::an_unknown_revision_is_told_of", |tools| Box::pin(one::unknown(tools)));
    trial("one::everybody_can_read_it", |tools| Box::pin(one::accessible(tools)));
    trial("report::everybody_can_read_it", |tools| Box::pin(report::accessible(tools)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    say(&tools.summary());
    conclusion.exit_code()
}
