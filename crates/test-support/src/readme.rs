use std::collections::BTreeMap;
use std::fmt::Write as _;

use service::settings::Setting;

/// Fails unless the README's configuration table has exactly these settings for `used_by`, each with its default and
/// its meaning.
pub fn check_configuration_table(used_by: &str, settings: &[Setting]) {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let mut rows: BTreeMap<String, [String; 2]> = BTreeMap::new();
    for line in readme.lines().filter(|line| line.starts_with("| `POSTRIDER_")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [variable, default, users, meaning] = cells[..] else { panic!("not four cells: {line}") };
        if users.split(", ").any(|user| user == used_by) {
            rows.insert(variable.trim_matches('`').to_owned(), [default.to_owned(), meaning.to_owned()]);
        }
    }
    let mut problems = String::new();
    for setting in settings {
        let default = match setting.default {
            None => "required".to_owned(),
            Some("") => "none".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let expected = [default, setting.help.to_owned()];
        let row = rows.remove(&setting.variable());
        if row.as_ref() != Some(&expected) {
            let variable = setting.variable();
            writeln!(
                problems,
                "should be: | `{variable}` | {} | … {used_by} … | {} |",
                expected[0], expected[1]
            )
            .unwrap();
        }
    }
    for unknown in rows.keys() {
        writeln!(problems, "{unknown} is no setting of the {used_by}").unwrap();
    }
    assert!(problems.is_empty(), "README.md, configuration table:\n{problems}");
}
