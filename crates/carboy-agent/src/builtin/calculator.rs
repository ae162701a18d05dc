//! Arithmetic: `+ - * / % **`, parentheses, decimals. Exact wherever numbers are whole or decimal.
//!
//! ```text
//!   text ─▶ check (length, forbidden words, characters) ─▶ recursive descent over bytes ─▶ fraction of i128, or f64
//! ```
//!
//! *Must never* hand the text to anything that evaluates programs: there is no name, call or attribute in this grammar, and
//! what looks like one is refused before it is parsed (G77). Length, nesting and size are bounded, so that time is.

mod number;

use carboy_core::ports::Later;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::handler::Handler;
use crate::tool::{Call, Effect, InvalidArguments, Output, ToolError};
use number::Number;

/// Longest expression, in characters.
pub const EXPRESSION_CHARS_MAX: usize = 200;
/// Deepest nesting of parentheses, signs and powers.
pub const DEPTH_MAX: u32 = 32;

/// What an expression never holds, in lower case. A speed bump with words of its own: the grammar has no names anyway.
const FORBIDDEN: &[&str] = &[
    "__",
    "import",
    "exec",
    "eval",
    "compile",
    "open",
    "input",
    "lambda",
    "globals",
    "locals",
    "getattr",
    "setattr",
    "delattr",
    "system",
    "subprocess",
    "builtins",
];

/// Works expressions out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calculator;

/// Its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalculatorArgs {
    /// Numbers, `+ - * / % **` and parentheses, as in `15 * 23`.
    pub expression: String,
}

impl Handler for Calculator {
    type Args = CalculatorArgs;

    const NAME: &'static str = "calculator";
    const DESCRIPTION: &'static str =
        "Works out an arithmetic expression of numbers, + - * / % ** and parentheses. Use it for every calculation.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: CalculatorArgs) -> Result<CalculatorArgs, InvalidArguments> {
        let invalid = |problem: String| Err(InvalidArguments { field: "expression".into(), problem });
        let expression = args.expression.trim();
        let lower = expression.to_lowercase();
        if expression.is_empty() {
            return invalid("Expression is empty".into());
        }
        if expression.chars().count() > EXPRESSION_CHARS_MAX {
            return invalid(format!("Expression is longer than {EXPRESSION_CHARS_MAX} characters"));
        }
        if FORBIDDEN.iter().any(|word| lower.contains(word)) {
            return invalid("Expression contains forbidden pattern".into());
        }
        if !expression.bytes().all(|b| b.is_ascii_digit() || b"+-*/%(). ".contains(&b)) {
            return invalid("Expression contains characters other than digits, + - * / % . and parentheses".into());
        }
        Ok(CalculatorArgs { expression: expression.to_owned() })
    }

    fn call<'a>(&'a self, _call: Call<'a>, args: CalculatorArgs) -> Later<'a, Result<Output, ToolError>> {
        let answer = evaluate(&args.expression).map_err(ToolError::from).map(|result| Output {
            value: json!({"result": format!("{} = {result}", args.expression)}),
            released: vec![result],
        });
        Box::pin(std::future::ready(answer))
    }
}

/// Why an expression has no result. The texts are for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalculationError {
    /// It does not follow the grammar.
    #[error("Expression is not complete or not well formed")]
    Malformed,
    /// Parentheses, signs or powers stand too deep in each other.
    #[error("Expression is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// By zero.
    #[error("Division by zero")]
    DivisionByZero,
    /// The result, or what leads to it, has no bounded form.
    #[error("Result is too large")]
    TooLarge,
    /// A root of a negative number.
    #[error("Result is not a real number")]
    NotReal,
}

impl CalculationError {
    /// A stable word.
    pub fn code(self) -> &'static str {
        match self {
            CalculationError::Malformed => "malformed_expression",
            CalculationError::TooDeep => "expression_too_deep",
            CalculationError::DivisionByZero => "division_by_zero",
            CalculationError::TooLarge => "result_too_large",
            CalculationError::NotReal => "result_not_real",
        }
    }
}

impl From<CalculationError> for ToolError {
    fn from(error: CalculationError) -> ToolError {
        ToolError::Refused { code: error.code(), message: error.to_string() }
    }
}

/// The result as people write it.
pub fn evaluate(expression: &str) -> Result<String, CalculationError> {
    let mut parser = Parser { rest: expression.as_bytes(), depth: 0 };
    let result = parser.sum()?;
    match parser.peek() {
        None => Ok(result.to_string()),
        Some(_) => Err(CalculationError::Malformed),
    }
}

/// ```text
/// sum = product (("+" | "-") product)*      product = signed (("*" | "/" | "%") signed)*
/// signed = ("+" | "-") signed | power       power = atom ("**" signed)?       atom = number | "(" sum ")"
/// ```
struct Parser<'a> {
    rest: &'a [u8],
    depth: u32,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<u8> {
        let spaces = self.rest.iter().take_while(|b| **b == b' ').count();
        self.rest = &self.rest[spaces..];
        self.rest.first().copied()
    }

    fn take(&mut self, symbol: &[u8]) -> bool {
        self.peek();
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<Number, CalculationError> {
        let mut left = self.product()?;
        loop {
            if self.take(b"+") {
                left = left.plus(self.product()?)?;
            } else if self.take(b"-") {
                left = left.plus(self.product()?.negated()?)?;
            } else {
                return Ok(left);
            }
        }
    }

    fn product(&mut self) -> Result<Number, CalculationError> {
        let mut left = self.signed()?;
        loop {
            if self.rest.starts_with(b"**") {
                return Ok(left);
            }
            if self.take(b"*") {
                left = left.times(self.signed()?)?;
            } else if self.take(b"/") {
                left = left.over(self.signed()?)?;
            } else if self.take(b"%") {
                left = left.modulo(self.signed()?)?;
            } else {
                return Ok(left);
            }
        }
    }

    fn signed(&mut self) -> Result<Number, CalculationError> {
        self.deeper(|parser| {
            if parser.take(b"-") {
                parser.signed()?.negated()
            } else if parser.take(b"+") {
                parser.signed()
            } else {
                parser.power()
            }
        })
    }

    /// `**` binds closer than a sign before it and looser than one behind it; to the right: `2 ** 3 ** 2` is 512.
    fn power(&mut self) -> Result<Number, CalculationError> {
        let base = self.atom()?;
        if self.take(b"**") { base.to_the(self.signed()?) } else { Ok(base) }
    }

    fn atom(&mut self) -> Result<Number, CalculationError> {
        if self.take(b"(") {
            let inner = self.deeper(Parser::sum)?;
            return if self.take(b")") { Ok(inner) } else { Err(CalculationError::Malformed) };
        }
        self.peek();
        let end = self.rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        Number::parse(digits)
    }

    fn deeper(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Number, CalculationError>,
    ) -> Result<Number, CalculationError> {
        self.depth += 1;
        let found = if self.depth > DEPTH_MAX { Err(CalculationError::TooDeep) } else { inner(self) };
        self.depth -= 1;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(expression: &str) -> Result<String, String> {
        let args = CalculatorArgs { expression: expression.to_owned() };
        Calculator.check(args).map(|args| args.expression).map_err(|error| error.problem)
    }

    #[test]
    fn fifteen_times_twenty_three_is_345_g74() {
        // G74, G73b
        let tool = crate::handler::tool(Calculator);
        let arguments = tool.check(&json!({"expression": " 15 * 23 "})).unwrap();
        let principal = crate::Principal {
            id: "cli_user".into(),
            kind: crate::PrincipalKind::Terminal,
            roles: std::collections::BTreeSet::new(),
        };
        let mut guard = crate::guard_state::GuardState::default();
        let call =
            Call { arguments: &arguments, principal: &principal, guard: &mut guard, now_ms: 0, idempotency_key: "k" };
        let mut later = tool.call(call);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Ok(output)) = later.as_mut().poll(&mut context) else { panic!("it waits") };
        assert_eq!(output.value, json!({"result": "15 * 23 = 345"}));
        assert_eq!(output.released, ["345"]);
    }

    #[test]
    fn programs_are_refused_in_the_exact_words_and_never_parsed_g77() {
        // G77, G62
        for expression in [
            "__import__('os').system('ls')",
            "import os",
            "exec('1')",
            "EVAL(1)",
            "().__class__",
            "1 + open('x')",
            "lambda: 1",
        ] {
            assert_eq!(checked(expression), Err("Expression contains forbidden pattern".into()), "{expression}");
        }
        for expression in ["abs(1)", "1;2", "1e9", "2^3", "１+１", "1,5", "a", "1\u{2212}1", "0x10"] {
            assert!(checked(expression).unwrap_err().starts_with("Expression contains characters"), "{expression}");
        }
        assert_eq!(checked("  "), Err("Expression is empty".into()));
        assert_eq!(checked(&"1".repeat(EXPRESSION_CHARS_MAX)).unwrap().len(), EXPRESSION_CHARS_MAX);
        assert!(checked(&"1".repeat(EXPRESSION_CHARS_MAX + 1)).unwrap_err().contains("longer than 200"));
    }

    #[test]
    fn results_are_those_of_the_schoolbook_g67() {
        for (expression, result) in [
            ("1+2*3", "7"),
            ("(1+2)*3", "9"),
            ("-2**2", "-4"),
            ("(-2)**2", "4"),
            ("2**-1", "0.5"),
            ("2**3**2", "512"),
            ("--1", "1"),
            ("7 % 3", "1"),
            ("-7 % 3", "2"),
            ("7 % -3", "-2"),
            ("5.5 % 2", "1.5"),
            ("0.1 + 0.2", "0.3"),
            ("1/4", "0.25"),
            ("1/3", "0.3333333333333333"),
            ("1/3*3", "1"),
            ("2**100", "1267650600228229401496703205376"),
            ("2**0.5", "1.4142135623730951"),
            ("10 / 2", "5"),
            ("1 - 1", "0"),
            ("0**0", "1"),
            (".5 * 2", "1"),
            ("3. + 1", "4"),
            ("(-8) ** 3", "-512"),
            ("1 ** 99999999999999999999999999", "1"),
        ] {
            assert_eq!(evaluate(expression).as_deref(), Ok(result), "{expression}");
        }
    }

    #[test]
    fn what_has_no_result_is_a_structured_error_g67() {
        use CalculationError::{DivisionByZero, Malformed, NotReal, TooDeep, TooLarge};
        for (expression, error) in [
            ("1/0", DivisionByZero),
            ("1 % (2-2)", DivisionByZero),
            ("0 ** -1", DivisionByZero),
            ("9**9**9", TooLarge),
            ("(-2)**127 / -1", TooLarge),
            ("(-2)**-127 / -1 + 1", TooLarge),
            ("-((-2)**127)", TooLarge),
            ("9999999999999999999**3", TooLarge),
            ("99999999999999999999999999999999999999 * 99", TooLarge),
            ("123456789012345678901234567890123456789012345", TooLarge),
            ("10 ** 400.5", TooLarge),
            ("(0-2)**0.5", NotReal),
            ("1 +", Malformed),
            ("(1", Malformed),
            ("1)", Malformed),
            ("1 2", Malformed),
            ("1..2", Malformed),
            (".", Malformed),
            ("2 // 1", Malformed),
            ("", Malformed),
        ] {
            assert_eq!(evaluate(expression), Err(error), "{expression}");
        }
        assert_eq!(evaluate(&format!("{}1{}", "(".repeat(16), ")".repeat(16))), Err(TooDeep));
        assert_eq!(evaluate(&format!("{}1{}", "(".repeat(12), ")".repeat(12))).as_deref(), Ok("1"));
        assert_eq!(evaluate(&format!("{}1", "-".repeat(150))), Err(TooDeep));
    }

    proptest! {
        #[test]
        fn whole_numbers_are_worked_out_exactly(a in -1_000_000_000_i64..1_000_000_000, b in -1_000_000_000_i64..1_000_000_000) {
            let (wide_a, wide_b) = (i128::from(a), i128::from(b));
            prop_assert_eq!(evaluate(&format!("({a}) * ({b})")), Ok((wide_a * wide_b).to_string()));
            prop_assert_eq!(evaluate(&format!("({a}) - ({b})")), Ok((wide_a - wide_b).to_string()));
        }

        #[test]
        fn any_text_of_the_alphabet_ends_in_a_result_or_an_error(text in "[0-9+*/%(). -]{0,200}") {
            let _ = evaluate(&text);
        }
    }
}
