//! What `--json` printed, checked against the documented schema whenever a test reads it.
//!
//! The schema language is the part of JSON Schema that `docs/lockmgr.schema.json` uses; a word that is not
//! known here is an error, so that nothing in that file goes unchecked.

use std::fs;

use serde_json::Value;

use super::Finished;

pub(crate) const SCHEMA: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lockmgr.schema.json");

pub(crate) fn schema() -> Value {
    let text = fs::read_to_string(SCHEMA).expect("the schema is there");
    serde_json::from_str(&text).expect("the schema is JSON")
}

/// The one document on the output, which fits the schema.
#[track_caller]
pub(crate) fn json(finished: &Finished) -> Value {
    assert_eq!(finished.out.lines().count(), 1, "one line: {finished:?}");
    let document = serde_json::from_str(&finished.out).expect("it is JSON");
    let schema = schema();
    if let Err(why) = check(&document, &schema, &schema) {
        panic!("the output does not fit docs/lockmgr.schema.json: {why}\n{}", finished.out);
    }
    document
}

/// Says where the value does not fit.
pub(crate) fn check(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    let words = schema.as_object().ok_or("a schema is an object")?;
    for (word, wanted) in words {
        let fits = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = wanted.as_str().and_then(|text| text.strip_prefix('#'));
                let part =
                    pointer.and_then(|pointer| root.pointer(pointer)).ok_or("a broken $ref")?;
                check(value, part, root)?;
                true
            }
            "oneOf" => {
                let all = wanted.as_array().ok_or("oneOf")?;
                let tried: Vec<_> = all.iter().map(|one| check(value, one, root)).collect();
                if tried.iter().filter(|one| one.is_ok()).count() != 1 {
                    return Err(format!("not one of: {tried:?}"));
                }
                true
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|one| is_of(value, one)),
                one => is_of(value, one),
            },
            "const" => value == wanted,
            "enum" => wanted.as_array().is_some_and(|all| all.contains(value)),
            "minimum" => value.is_null() || value.as_f64() >= wanted.as_f64(),
            "minItems" => {
                value.as_array().is_some_and(|all| Some(all.len() as u64) >= wanted.as_u64())
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(item, wanted, root).map_err(|why| format!("[{index}]{why}"))?;
                }
                true
            }
            "required" => {
                for key in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.get(key).is_none() {
                        return Err(format!(": {key} is missing"));
                    }
                }
                true
            }
            "properties" => {
                for (key, part) in wanted.as_object().ok_or("properties")? {
                    if let Some(inner) = value.get(key) {
                        check(inner, part, root).map_err(|why| format!(".{key}{why}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(wanted, &Value::Bool(false));
                let known = words.get("properties").and_then(Value::as_object);
                let odd = value.as_object().and_then(|object| {
                    object.keys().find(|key| known.is_none_or(|known| !known.contains_key(*key)))
                });
                if let Some(key) = odd {
                    return Err(format!(": {key} is not documented"));
                }
                true
            }
            other => return Err(format!("the schema uses {other}, which is not checked")),
        };
        if !fits {
            return Err(format!(": {value} is not {word} {wanted}"));
        }
    }
    Ok(())
}

fn is_of(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}
