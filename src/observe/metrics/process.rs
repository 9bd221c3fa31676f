//! What the operating system says of this process, under the names every Prometheus client uses.
//!
//! From `/proc`; where there is none, these series are not shown.

use crate::observe::metrics::{Page, Source};
use crate::units::count_f64;
use std::fs;

/// The process itself.
#[derive(Clone, Copy, Debug)]
pub struct Process;

impl Source for Process {
    fn show(&self, page: &mut Page<'_>) {
        let Some(usage) = Usage::now() else { return };
        page.counter("process_cpu_seconds_total", "CPU time used, in user and in system mode.", usage.cpu_seconds);
        page.gauge("process_resident_memory_bytes", "Memory in use.", usage.resident_bytes);
        page.gauge("process_virtual_memory_bytes", "Address space in use.", usage.virtual_bytes);
        if let Some(start) = usage.start_seconds {
            page.gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", start);
        }
        if let Some(open) = open_files() {
            page.gauge("process_open_fds", "File descriptors open.", open);
        }
        if let Ok((soft, _)) = rlimit::Resource::NOFILE.get() {
            page.gauge("process_max_fds", "File descriptors that may be open.", soft);
        }
        if let Ok((soft, _)) = rlimit::Resource::AS.get() {
            page.gauge("process_virtual_memory_max_bytes", "Address space that may be in use.", soft);
        }
        if let Some((received, sent)) = fs::read_to_string("/proc/self/net/netstat").ok().and_then(|text| octets(&text))
        {
            let of = "over IP by the network namespace of the process";
            page.counter("process_network_receive_bytes_total", &format!("Bytes received {of}."), received);
            page.counter("process_network_transmit_bytes_total", &format!("Bytes sent {of}."), sent);
        }
    }
}

#[derive(PartialEq, Debug)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    start_seconds: Option<f64>,
}

impl Usage {
    fn now() -> Option<Self> {
        let boot = fs::read_to_string("/proc/stat").ok();
        let boot = boot.as_deref().and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("btime ")));
        let (ticks, page) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size());
        Self::of(&fs::read_to_string("/proc/self/stat").ok()?, boot, ticks, page)
    }

    /// Reads the line of `/proc/self/stat`; the fields are numbered as proc(5) does.
    fn of(stat: &str, boot: Option<&str>, ticks: u64, page: usize) -> Option<Self> {
        // The name of the program, in brackets, may itself have spaces and brackets.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let per_second = count_f64(usize::try_from(ticks.max(1)).ok()?);
        let seconds = |ticked: u64| Some(count_f64(usize::try_from(ticked).ok()?) / per_second);
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?)?,
            resident_bytes: field(24)?.saturating_mul(page as u64),
            virtual_bytes: field(23)?,
            start_seconds: boot.and_then(|boot| Some(boot.trim().parse::<f64>().ok()? + seconds(field(22)?)?)),
        })
    }
}

/// Bytes received and sent, from a table that has a line of names and one of numbers.
fn octets(netstat: &str) -> Option<(u64, u64)> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let of = |wanted: &str| {
        let place = names.split_ascii_whitespace().position(|name| name == wanted)?;
        numbers.split_ascii_whitespace().nth(place)?.parse().ok()
    };
    Some((of("InOctets")?, of("OutOctets")?))
}

fn open_files() -> Option<u64> {
    // One of them is the directory that is being read.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_network_are_found_by_name() {
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 123 456\n";
        assert_eq!(octets(netstat), Some((123, 456)));
        assert_eq!(octets("IpExt: InOctets\nIpExt: 1\n"), None);
    }

    #[test]
    fn a_line_of_proc_is_read_whatever_the_program_is_called() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 12345 104857600 2560 1844 1 1";
        let usage = Usage::of(stat, Some(" 1700000000"), 100, 4096);
        let want = Usage {
            cpu_seconds: 3.0,            // (250 + 50) / 100
            resident_bytes: 2560 * 4096, // pages
            virtual_bytes: 104_857_600,
            start_seconds: Some(1_700_000_123.45),
        };
        assert_eq!(usage, Some(want));
        for bad in ["", "42 (x) S", "42 x S 1 2 3"] {
            assert_eq!(Usage::of(bad, None, 100, 4096), None, "{bad}");
        }
    }
}
