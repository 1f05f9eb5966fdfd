//! Label and field selectors, as lists and watches take them.

use serde_json::Value;

/// A parsed pair of selectors.
#[derive(Debug, Default, Clone)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selector {
    /// `app=web,tier!=db,zone in (a,b),!old` and `spec.nodeName=a`.
    pub(crate) fn parse(labels: &str, fields: &str) -> Self {
        let fields = fields.split(',').filter(|text| !text.is_empty());
        Self {
            labels: split(labels)
                .into_iter()
                .map(|text| requirement(&text))
                .collect(),
            fields: fields.map(field).collect(),
        }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels
            .iter()
            .all(|requirement| requirement.holds(labels))
            && self.fields.iter().all(|(path, equal, value)| {
                let found = path.split('.').fold(object, |at, part| &at[part]);
                let found = match found {
                    Value::String(text) => text.clone(),
                    Value::Bool(_) | Value::Number(_) => found.to_string(),
                    Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
                };
                (found == *value) == *equal
            })
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        match self {
            Self::Exists(key) => !labels[key].is_null(),
            Self::Absent(key) => labels[key].is_null(),
            Self::In(key, values) => values.iter().any(|value| labels[key] == *value.as_str()),
            Self::NotIn(key, values) => values.iter().all(|value| labels[key] != *value.as_str()),
        }
    }
}

/// Splits at commas that are not in parentheses.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for character in text.chars() {
        match character {
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(text: &str) -> Requirement {
    let text = text.trim();
    let values = |list: &str| {
        let list = list.trim().trim_start_matches('(').trim_end_matches(')');
        list.split(',')
            .map(|value| value.trim().to_owned())
            .collect::<Vec<_>>()
    };
    if let Some((key, list)) = text.split_once(" notin ") {
        return Requirement::NotIn(key.trim().to_owned(), values(list));
    }
    if let Some((key, list)) = text.split_once(" in ") {
        return Requirement::In(key.trim().to_owned(), values(list));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]);
    }
    if let Some((key, value)) = text.split_once('=') {
        let value = value.trim_start_matches('=').trim();
        return Requirement::In(key.trim().to_owned(), vec![value.to_owned()]);
    }
    match text.strip_prefix('!') {
        Some(key) => Requirement::Absent(key.to_owned()),
        None => Requirement::Exists(text.to_owned()),
    }
}

fn field(text: &str) -> (String, bool, String) {
    if let Some((path, value)) = text.split_once("!=") {
        return (path.to_owned(), false, value.to_owned());
    }
    let (path, value) = text.split_once('=').unwrap_or((text, ""));
    (
        path.to_owned(),
        true,
        value.trim_start_matches('=').to_owned(),
    )
}

/// A `LabelSelector` of an object's specification. An empty one matches everything.
pub(crate) fn of_spec(spec: &Value) -> Selector {
    let mut labels = Vec::new();
    for (key, value) in spec["matchLabels"].as_object().into_iter().flatten() {
        labels.push(Requirement::In(
            key.clone(),
            vec![value.as_str().unwrap_or_default().to_owned()],
        ));
    }
    for expression in spec["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default().to_owned();
        let values = expression["values"].as_array().into_iter().flatten();
        let values = values
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        labels.push(match expression["operator"].as_str().unwrap_or_default() {
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::Absent(key),
            _ => Requirement::In(key, values),
        });
    }
    Selector {
        labels,
        fields: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let pod = json!({
            "metadata": {"name": "a", "labels": {"app": "web", "zone": "x"}},
            "spec": {"nodeName": "n1"},
        });
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=web,zone in (x,y)", "", true),
            ("app==web", "spec.nodeName=n1", true),
            ("app!=web", "", false),
            ("!app", "", false),
            ("zone notin (x, y)", "", false),
            ("app", "spec.nodeName!=n1", false),
            ("", "metadata.name=b", false),
        ] {
            let selector = Selector::parse(labels, fields);
            assert_eq!(selector.matches(&pod), expected, "{labels} {fields}");
        }
    }
}
