//! Go text templates, as far as Knative's own defaults use them: text and fields.

/// Fills `fields` into `template`: `{{.Name}}` becomes the value of `Name`.
///
/// Conditions, functions and pipelines are beyond it; then the answer is `None`, and the component of Knative that
/// uses the template is the one that judges it. What no template engine would take is an error.
pub(super) fn render(template: &str, fields: &[(&str, &str)]) -> Result<Option<String>, String> {
    check(template)?;
    let (mut rendered, mut plain) = (String::new(), true);
    let mut rest = template;
    while let Some((text, action)) = rest.split_once("{{") {
        let (action, after) = action.split_once("}}").unwrap_or((action, ""));
        // A minus sign beside the braces swallows the white space on that side.
        let (action, trims_before) = action.strip_prefix("- ").map_or((action, false), |action| (action, true));
        let (action, trims_after) = action.strip_suffix(" -").map_or((action, false), |action| (action, true));
        rendered.push_str(if trims_before { text.trim_end() } else { text });
        rest = if trims_after { after.trim_start() } else { after };
        let field =
            action.trim().strip_prefix('.').filter(|field| field.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        match field.filter(|field| !field.is_empty()) {
            Some(field) => {
                let known = fields.iter().find(|(name, _)| *name == field);
                let (_, value) = known.ok_or_else(|| format!("uses .{field}, which there is not"))?;
                rendered.push_str(value);
            }
            None => plain = false,
        }
    }
    rendered.push_str(rest);
    Ok(plain.then_some(rendered))
}

/// Whether every action of `template` has an end and a content.
pub(super) fn check(template: &str) -> Result<(), String> {
    let mut rest = template;
    while let Some((_, action)) = rest.split_once("{{") {
        let (action, after) = action.split_once("}}").ok_or("has an action that is never closed")?;
        if action.trim().is_empty() {
            return Err("has an empty action".to_owned());
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn fields_are_filled_in_and_the_rest_is_left_to_others() {
        let fields = [("Name", "web"), ("Namespace", "demo")];
        let ok = |text: &str| Ok(Some(text.to_owned()));
        for (template, want) in [
            ("", ok("")),
            ("{{.Name}}.{{.Namespace}}.example.com", ok("web.demo.example.com")),
            ("{{ .Name }}-x", ok("web-x")),
            ("a {{- .Name -}} b", ok("awebb")),
            ("a {{- .Name }} b", ok("aweb b")),
            ("a {{- \" \" }} b", Ok(None)),
            ("a}}b", ok("a}}b")),
            ("{{if .Name}}x{{end}}", Ok(None)),
            ("{{.Name | printf \"%s\"}}", Ok(None)),
            ("{{index .Annotations \"sub\"}}", Ok(None)),
            ("{{.Name", Err("has an action that is never closed".to_owned())),
            ("{{ }}", Err("has an empty action".to_owned())),
            ("{{.Tag}}", Err("uses .Tag, which there is not".to_owned())),
        ] {
            assert_eq!(render(template, &fields), want, "{template}");
        }
    }
}
