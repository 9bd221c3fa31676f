//! The DNS domain of the cluster, by Knative's rule.

/// The domain when nothing names another.
pub const DEFAULT: &str = "cluster.local";

/// The domain that `CLUSTER_DOMAIN` or the resolver's configuration names.
///
/// `resolv_conf` is the content of `/etc/resolv.conf`. Without that file the variable does not count either, as in
/// Knative.
pub fn of(variable: Option<&str>, resolv_conf: Option<&str>) -> String {
    let Some(resolv_conf) = resolv_conf else { return DEFAULT.to_owned() };
    if let Some(domain) = variable.filter(|domain| !domain.is_empty()) {
        return domain.to_owned();
    }
    let searches = resolv_conf.lines().filter_map(|line| line.strip_prefix("search "));
    let service_domain = searches.flat_map(|search| search.split(' ')).find_map(|domain| domain.strip_prefix("svc."));
    service_domain.map_or(DEFAULT, |domain| domain.strip_suffix('.').unwrap_or(domain)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_variable_then_the_search_list_then_the_usual() {
        let pod = "nameserver 10.96.0.10\nsearch default.svc.corp.test svc.corp.test corp.test\noptions ndots:5\n";
        for (variable, resolv_conf, want) in [
            (None, Some(pod), "corp.test"),
            (Some(""), Some(pod), "corp.test"),
            (Some("other.test"), Some(pod), "other.test"),
            (None, Some("search svc.corp.test.\n"), "corp.test"),
            (None, Some("search a.test b.test\nsearch c.test svc.d.test\n"), "d.test"),
            (None, Some("nameserver 1.1.1.1\n"), "cluster.local"),
            (None, Some("#search svc.corp.test\n"), "cluster.local"),
            (None, Some("searching svc.corp.test\n"), "cluster.local"),
            (Some("other.test"), Some(""), "other.test"),
            (Some("other.test"), None, "cluster.local"),
            (None, None, "cluster.local"),
        ] {
            assert_eq!(of(variable, resolv_conf), want, "{variable:?} {resolv_conf:?}");
        }
    }
}
