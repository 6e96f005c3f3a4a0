//! The documented schema says what it seems to: other documents do not fit, and every key is explained.
//!
//! That real output fits is checked by every test that reads any (`support::json`).

use serde_json::{Value, json};

use crate::support::{check, schema};

#[test]
fn what_is_not_documented_does_not_fit() {
    let schema = schema();
    let gaps = json!({"not_permitted": [], "hidden": false, "pieced_together": false, "cut_short": false, "errno": null});
    let good = json!({"version": 1, "command": "ls", "files": [], "gaps": gaps});
    assert_eq!(check(&good, &schema, &schema), Ok(()));
    for (pointer, value) in [
        ("/version", json!(2)),
        ("/command", json!("lock")),
        ("/files", json!([{"path": "/x"}])),
        ("/gaps/hidden", json!("no")),
        ("/gaps/not_permitted", json!([-1])),
        ("/gaps", json!({})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert!(check(&bad, &schema, &schema).is_err(), "{pointer}");
    }
    let mut more = good.clone();
    more["gaps"]["colour"] = json!("red");
    assert!(check(&more, &schema, &schema).is_err());
}

#[test]
fn every_key_is_explained() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut open = vec![schema()];
    let mut keys = 0;
    while let Some(value) = open.pop() {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            for key in properties.keys() {
                keys += 1;
                let explained =
                    page.contains(&format!("`{key}`")) || page.contains(&format!("\"{key}\""));
                assert!(explained, "docs/json.md does not explain {key}");
            }
        }
        match value {
            Value::Object(map) => open.extend(map.into_iter().map(|(_, value)| value)),
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    assert!(keys > 60, "{keys}");
}
