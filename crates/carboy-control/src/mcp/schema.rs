//! The JSON Schema of a tool's arguments, as far as it is checked before a call: a subset, bounded, compiled once.
//!
//! `type required enum const pattern minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum items minItems
//! maxItems properties additionalProperties anyOf oneOf allOf`, `$ref` into the schema's own `$defs`, and annotations.
//!
//! *Must never* overlook a keyword: a schema that says something that is not checked here is refused, tool and all. No
//! value stands in what is said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use carboy_agent::InvalidArguments;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// Octets of a schema.
pub(super) const SCHEMA_BYTES_MAX: usize = 32 * 1024;
/// How deep schemas stand in each other, references included.
const DEPTH_MAX: usize = 24;
/// Schemas in a schema, references followed.
const NODES_MAX: usize = 2_000;
/// How deep arguments are looked at.
const VALUE_DEPTH_MAX: usize = 32;
/// Octets of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// Keywords that demand nothing.
const ANNOTATIONS: &[&str] = &[
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "format",
    "readOnly",
    "title",
    "writeOnly",
];

/// A compiled schema.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// None means any.
    types: Option<BTreeSet<Kind>>,
    among: Option<Vec<Value>>,
    pattern: Option<Regex>,
    length: Range<u64>,
    least: Option<f64>,
    most: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
    items: Option<Box<Schema>>,
    count: Range<u64>,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    others: Others,
    all_of: Vec<Schema>,
    any_of: Vec<Vec<Schema>>,
    one_of: Option<Vec<Schema>>,
}

#[derive(Debug, Default)]
struct Range<T> {
    min: Option<T>,
    max: Option<T>,
}

/// Properties that the schema does not name.
#[derive(Debug, Default)]
enum Others {
    #[default]
    Any,
    None,
    Like(Box<Schema>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    fn of(word: &str) -> Option<Kind> {
        Some(match word {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "string" => Kind::String,
            "array" => Kind::Array,
            "object" => Kind::Object,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "boolean",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::Object => "object",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Kind::Integer, Value::Number(number)) => {
                number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            (Kind::Null, Value::Null)
            | (Kind::Boolean, Value::Bool(_))
            | (Kind::Number, Value::Number(_))
            | (Kind::String, Value::String(_))
            | (Kind::Array, Value::Array(_))
            | (Kind::Object, Value::Object(_)) => true,
            (
                _,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
            ) => false,
        }
    }
}

impl Schema {
    /// Compiles the schema of a tool's arguments, which are an object.
    ///
    /// # Errors
    /// What of it cannot be checked here, for the operator.
    pub(super) fn of_arguments(schema: &Value) -> Result<Schema, String> {
        let bytes = schema.to_string().len();
        if bytes > SCHEMA_BYTES_MAX {
            return Err(format!("its schema has {bytes} octets, the limit is {SCHEMA_BYTES_MAX}"));
        }
        let mut compiling = Compiling { root: schema, nodes: 0, path: Rc::new(String::new()) };
        let compiled = compiling.schema(schema, 0)?;
        match &compiled.types {
            Some(types) if types.iter().eq([&Kind::Object]) => Ok(compiled),
            Some(_) | None => Err("its schema is not one of an object (`\"type\": \"object\"`)".into()),
        }
    }

    /// Do these arguments keep to it? The first thing that does not is told, without its value.
    pub(super) fn check(&self, arguments: &Map<String, Value>) -> Result<(), InvalidArguments> {
        self.object(arguments, "arguments", 0)
    }

    fn value(&self, value: &Value, at: &str, depth: usize) -> Result<(), InvalidArguments> {
        if depth > VALUE_DEPTH_MAX {
            return wrong(at, format!("nested deeper than {VALUE_DEPTH_MAX} levels"));
        }
        if let Some(types) = self.types.as_ref().filter(|types| !types.iter().any(|kind| kind.fits(value))) {
            let words: Vec<&str> = types.iter().map(|kind| kind.word()).collect();
            return wrong(at, format!("not of the right type, expected {}", words.join(" or ")));
        }
        if let Some(among) = self.among.as_ref().filter(|among| !among.contains(value)) {
            let words: Vec<String> = among.iter().take(20).map(Value::to_string).collect();
            return wrong(at, format!("not one of {}", words.join(", ")));
        }
        match value {
            Value::String(text) => self.text(text, at)?,
            Value::Number(number) => self.number(number.as_f64().unwrap_or(f64::NAN), at)?,
            Value::Array(values) => self.array(values, at, depth)?,
            Value::Object(map) => self.object(map, at, depth)?,
            Value::Null | Value::Bool(_) => {}
        }
        self.together(value, at, depth)
    }

    fn text(&self, text: &str, at: &str) -> Result<(), InvalidArguments> {
        within(&self.length, text.chars().count() as u64, at, "characters")?;
        match &self.pattern {
            Some(pattern) if !pattern.is_match(text) => wrong(at, format!("does not match {}", pattern.as_str())),
            Some(_) | None => Ok(()),
        }
    }

    fn number(&self, number: f64, at: &str) -> Result<(), InvalidArguments> {
        let demands = [
            (self.least.is_none_or(|least| number >= least), "at least", self.least),
            (self.most.is_none_or(|most| number <= most), "at most", self.most),
            (self.above.is_none_or(|above| number > above), "more than", self.above),
            (self.below.is_none_or(|below| number < below), "less than", self.below),
        ];
        match demands.into_iter().find(|(fits, ..)| !fits) {
            Some((_, words, bound)) => wrong(at, format!("must be {words} {}", bound.unwrap_or_default())),
            None => Ok(()),
        }
    }

    fn array(&self, values: &[Value], at: &str, depth: usize) -> Result<(), InvalidArguments> {
        within(&self.count, values.len() as u64, at, "items")?;
        let Some(items) = &self.items else { return Ok(()) };
        values.iter().enumerate().try_for_each(|(n, value)| items.value(value, &format!("{at}[{n}]"), depth + 1))
    }

    fn object(&self, map: &Map<String, Value>, at: &str, depth: usize) -> Result<(), InvalidArguments> {
        let below = |name: &str| if depth == 0 { name.to_owned() } else { format!("{at}.{name}") };
        if let Some(missing) = self.required.iter().find(|name| !map.contains_key(*name)) {
            return wrong(&below(missing), "missing".into());
        }
        for (name, value) in map {
            match (self.properties.get(name), &self.others) {
                (Some(schema), _) => schema.value(value, &below(name), depth + 1)?,
                (None, Others::Like(schema)) => schema.value(value, at, depth + 1)?,
                (None, Others::Any) => {}
                // The name is the model's own text: it is not repeated.
                (None, Others::None) => {
                    let known: Vec<&str> = self.properties.keys().map(String::as_str).collect();
                    return wrong(at, format!("an unknown argument; known are {}", known.join(", ")));
                }
            }
        }
        Ok(())
    }

    fn together(&self, value: &Value, at: &str, depth: usize) -> Result<(), InvalidArguments> {
        self.all_of.iter().try_for_each(|schema| schema.value(value, at, depth + 1))?;
        let fits = |schema: &&Schema| schema.value(value, at, depth + 1).is_ok();
        for any in &self.any_of {
            if !any.iter().any(|schema| fits(&schema)) {
                return wrong(at, "none of the forms that it may have".into());
            }
        }
        match &self.one_of {
            Some(one) if one.iter().filter(fits).count() != 1 => {
                wrong(at, "not exactly one of the forms that it may have".into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn wrong(field: &str, problem: String) -> Result<(), InvalidArguments> {
    Err(InvalidArguments { field: field.to_owned(), problem })
}

fn within(range: &Range<u64>, found: u64, at: &str, what: &str) -> Result<(), InvalidArguments> {
    match (range.min.filter(|min| found < *min), range.max.filter(|max| found > *max)) {
        (Some(min), _) => wrong(at, format!("fewer than {min} {what}")),
        (None, Some(max)) => wrong(at, format!("more than {max} {what}")),
        (None, None) => Ok(()),
    }
}

struct Compiling<'a> {
    root: &'a Value,
    nodes: usize,
    path: Rc<String>,
}

impl Compiling<'_> {
    fn schema(&mut self, schema: &Value, depth: usize) -> Result<Schema, String> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(format!("its schema is deeper than {DEPTH_MAX} levels or larger than {NODES_MAX} parts"));
        }
        let map = match schema {
            Value::Bool(true) => return Ok(Schema::default()),
            // Nothing fits: an empty list of what it may be.
            Value::Bool(false) => return Ok(Schema { among: Some(Vec::new()), ..Schema::default() }),
            Value::Object(map) => map,
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(format!("a part of its schema is none ({})", self.path));
            }
        };
        let mut out = Schema::default();
        for (keyword, value) in map {
            self.keyword(&mut out, keyword, value, depth)?;
        }
        Ok(out)
    }

    fn keyword(&mut self, out: &mut Schema, keyword: &str, value: &Value, depth: usize) -> Result<(), String> {
        match keyword {
            "type" => out.types = Some(kinds(value)?),
            "enum" => out.among = Some(value.as_array().cloned().ok_or("`enum` is no list")?),
            "const" => out.among = Some(vec![value.clone()]),
            "pattern" => out.pattern = Some(pattern(value)?),
            "minLength" => out.length.min = Some(natural(keyword, value)?),
            "maxLength" => out.length.max = Some(natural(keyword, value)?),
            "minItems" => out.count.min = Some(natural(keyword, value)?),
            "maxItems" => out.count.max = Some(natural(keyword, value)?),
            "minimum" => out.least = Some(number(keyword, value)?),
            "maximum" => out.most = Some(number(keyword, value)?),
            "exclusiveMinimum" => out.above = Some(number(keyword, value)?),
            "exclusiveMaximum" => out.below = Some(number(keyword, value)?),
            "items" => out.items = Some(Box::new(self.schema(value, depth + 1)?)),
            "properties" => {
                for (name, schema) in value.as_object().ok_or("`properties` is no object")? {
                    self.path = Rc::new(name.clone());
                    out.properties.insert(name.clone(), self.schema(schema, depth + 1)?);
                }
            }
            "required" => out.required = texts(keyword, value)?,
            "additionalProperties" => {
                out.others = match value.as_bool() {
                    Some(true) => Others::Any,
                    Some(false) => Others::None,
                    None => Others::Like(Box::new(self.schema(value, depth + 1)?)),
                };
            }
            "allOf" => out.all_of.extend(self.schemas(keyword, value, depth)?),
            "anyOf" => out.any_of.push(self.schemas(keyword, value, depth)?),
            "oneOf" => out.one_of = Some(self.schemas(keyword, value, depth)?),
            "$ref" => out.all_of.push(self.referred(value, depth)?),
            annotation if ANNOTATIONS.contains(&annotation) => {}
            other => return Err(format!("its schema uses `{other}`, which is not checked here")),
        }
        Ok(())
    }

    fn schemas(&mut self, keyword: &str, value: &Value, depth: usize) -> Result<Vec<Schema>, String> {
        let list = value.as_array().filter(|list| !list.is_empty());
        list.ok_or_else(|| format!("`{keyword}` is no list of schemas"))?
            .iter()
            .map(|schema| self.schema(schema, depth + 1))
            .collect()
    }

    /// A definition of this very schema; one that refers to itself ends at the depth.
    fn referred(&mut self, value: &Value, depth: usize) -> Result<Schema, String> {
        let pointer = value.as_str().and_then(|text| text.strip_prefix('#'));
        let pointer = pointer.ok_or("a `$ref` of its schema leads out of it")?;
        let found = self.root.pointer(pointer).ok_or("a `$ref` of its schema leads nowhere")?;
        self.schema(found, depth + 1)
    }
}

fn kinds(value: &Value) -> Result<BTreeSet<Kind>, String> {
    let words = match value.as_str() {
        Some(word) => vec![word.to_owned()],
        None => texts("type", value)?,
    };
    words.iter().map(|word| Kind::of(word).ok_or_else(|| format!("`type` names `{word}`"))).collect()
}

fn pattern(value: &Value) -> Result<Regex, String> {
    let text = value.as_str().ok_or("`pattern` is no text")?;
    let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|_| format!("its pattern `{text}` is too large, or uses what cannot be matched in linear time"))
}

fn natural(keyword: &str, value: &Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| format!("`{keyword}` is no number of things"))
}

fn number(keyword: &str, value: &Value) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| format!("`{keyword}` is no number"))
}

fn texts(keyword: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("`{keyword}` is no list"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("`{keyword}` lists no texts"));
    list.iter().map(text).collect()
}

/// Shared by all calls of a tool.
pub(super) type Compiled = Arc<Schema>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(schema: Value, arguments: Value) -> String {
        let schema = Schema::of_arguments(&schema).unwrap();
        schema.check(arguments.as_object().unwrap()).map_or_else(|e| e.to_string(), |()| "fits".into())
    }

    #[test]
    fn g62_arguments_are_checked_against_each_keyword_and_no_value_is_repeated() {
        let schema = json!({
            "type": "object",
            "properties": {
                "id": {"type": "string", "pattern": "^BK-[0-9]{4}$", "maxLength": 7},
                "count": {"type": "integer", "minimum": 1, "maximum": 5},
                "ratio": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                "kind": {"enum": ["a", "b"]},
                "fixed": {"const": 7},
                "list": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 2},
                "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "one": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 5}]},
                "inner": {"$ref": "#/$defs/Inner"},
                "map": {"type": "object", "additionalProperties": {"type": "boolean"}}
            },
            "required": ["id"],
            "additionalProperties": false,
            "$defs": {"Inner": {"type": "object", "properties": {"x": {"type": ["integer", "null"]}}, "required": ["x"]}}
        });
        for (arguments, said) in [
            (json!({"id": "BK-1001"}), "fits"),
            (
                json!({"id": "BK-1001", "count": 5, "ratio": 0.5, "kind": "b", "fixed": 7, "list": ["x"], "maybe": null,
                    "one": 3, "inner": {"x": null}, "map": {"y": true}}),
                "fits",
            ),
            (json!({}), "id: missing"),
            (json!({"id": 1}), "id: not of the right type, expected string"),
            (json!({"id": "secret value"}), "id: more than 7 characters"),
            (json!({"id": "BK-100"}), "id: does not match ^BK-[0-9]{4}$"),
            (json!({"id": "BK-1001", "count": 6}), "count: must be at most 5"),
            (json!({"id": "BK-1001", "count": 2.5}), "count: not of the right type, expected integer"),
            (json!({"id": "BK-1001", "count": 2.0}), "fits"),
            (json!({"id": "BK-1001", "ratio": 1}), "ratio: must be less than 1"),
            (json!({"id": "BK-1001", "kind": "c"}), "kind: not one of \"a\", \"b\""),
            (json!({"id": "BK-1001", "fixed": 8}), "fixed: not one of 7"),
            (json!({"id": "BK-1001", "list": ["a", "b", "c"]}), "list: more than 2 items"),
            (json!({"id": "BK-1001", "list": ["a", ""]}), "list[1]: fewer than 1 characters"),
            (json!({"id": "BK-1001", "maybe": 1}), "maybe: none of the forms that it may have"),
            (json!({"id": "BK-1001", "one": 7}), "one: not exactly one of the forms that it may have"),
            (json!({"id": "BK-1001", "inner": {}}), "inner.x: missing"),
            (json!({"id": "BK-1001", "map": {"secret": 1}}), "map: not of the right type, expected boolean"),
        ] {
            assert_eq!(says(schema.clone(), arguments.clone()), said, "{arguments}");
        }
        let unknown = says(schema, json!({"id": "BK-1001", "secret": 1}));
        assert!(unknown.starts_with("arguments: an unknown argument; known are ") && !unknown.contains("secret"));
    }

    #[test]
    fn a_schema_that_demands_what_is_not_checked_or_has_no_end_is_refused() {
        let of = |schema: Value| Schema::of_arguments(&schema).err().unwrap_or_default();
        assert!(of(json!({"type": "object", "not": {}})).contains("`not`"));
        assert!(of(json!({"type": "object", "patternProperties": {}})).contains("`patternProperties`"));
        assert!(of(json!({"type": "string"})).contains("not one of an object"));
        assert!(of(json!({})).contains("not one of an object"));
        assert!(of(json!({"type": "object", "properties": {"a": {"pattern": "(?=a)"}}})).contains("linear time"));
        assert!(of(json!({"type": "object", "properties": {"a": {"pattern": "(a{500}){500}"}}})).contains("too large"));
        let endless = json!({"type": "object", "properties": {"a": {"$ref": "#"}}});
        assert!(of(endless).contains("deeper than"));
        assert!(of(json!({"type": "object", "properties": {"a": {"$ref": "http://x"}}})).contains("leads out"));
        let large = json!({"type": "object", "description": "x".repeat(SCHEMA_BYTES_MAX)});
        assert!(of(large).contains("octets"));
        assert!(of(json!({"type": "object", "additionalProperties": false})).is_empty());
    }
}
