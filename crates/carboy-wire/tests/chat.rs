//! What a model is asked and what it answers, in both formats of chat agents: golden transcripts, cut in every place, and
//! hostile ones.

// Without `#[cfg(test)]` clippy does not see that the helpers here are of tests.
#![allow(clippy::unwrap_used)]

use carboy_wire::chat::openai::OutputCap;
use carboy_wire::chat::{
    ARGUMENTS_BYTES_MAX, Block, CALLS_MAX, Completion, Delta, Fault, Message, NAME_BYTES_MAX, Prompt, ReadError, Role,
    Stopped, TEXT_BYTES_MAX, ToolSchema, anthropic, openai,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Anthropic,
    OpenAi,
}

type Answer = Result<Completion, ReadError>;

/// Reads the parts one by one: what was heard on the way, and how it ended.
fn read<'a>(format: Format, parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Delta>, Answer) {
    let mut heard = Vec::new();
    let parts = parts.into_iter();
    let answer = match format {
        Format::Anthropic => {
            let mut reader = anthropic::Reader::new();
            parts.map(|part| reader.feed(part, &mut heard)).find(Result::is_err).unwrap_or(Ok(())).map(|()| reader)
        }
        .and_then(|reader| reader.finish(&mut heard)),
        Format::OpenAi => {
            let mut reader = openai::Reader::new();
            parts.map(|part| reader.feed(part, &mut heard)).find(Result::is_err).unwrap_or(Ok(())).map(|()| reader)
        }
        .and_then(|reader| reader.finish(&mut heard)),
    };
    (joined(heard), answer)
}

/// Words that follow each other as one: how they were split says nothing.
fn joined(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut all: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (all.last_mut(), delta) {
            (Some(Delta::Text(before)), Delta::Text(more)) => before.push_str(&more),
            (_, delta) => all.push(delta),
        }
    }
    all
}

fn whole(format: Format, text: &str) -> (Vec<Delta>, Answer) {
    read(format, [text.as_bytes()])
}

fn text(text: &str) -> Block {
    Block::Text { text: text.into() }
}

fn call(id: &str, name: &str, input: Value) -> Block {
    Block::ToolUse { id: id.into(), name: name.into(), input }
}

const GOLDEN: [(&str, Format, &str); 12] = [
    ("anthropic/tools", Format::Anthropic, include_str!("golden/anthropic/tools.sse")),
    ("anthropic/thinking", Format::Anthropic, include_str!("golden/anthropic/thinking.sse")),
    ("anthropic/server_tool", Format::Anthropic, include_str!("golden/anthropic/server_tool.sse")),
    ("anthropic/whole", Format::Anthropic, include_str!("golden/anthropic/whole.json")),
    ("chat/text", Format::OpenAi, include_str!("golden/chat/text.sse")),
    ("chat/tools", Format::OpenAi, include_str!("golden/chat/tools.sse")),
    ("chat/two_answers", Format::OpenAi, include_str!("golden/chat/two_answers.sse")),
    ("chat/whole", Format::OpenAi, include_str!("golden/chat/whole.json")),
    ("servers/ollama", Format::OpenAi, include_str!("golden/servers/ollama.sse")),
    ("servers/vllm", Format::OpenAi, include_str!("golden/servers/vllm.sse")),
    ("servers/llama_cpp", Format::OpenAi, include_str!("golden/servers/llama_cpp.sse")),
    ("servers/whole_tool", Format::OpenAi, include_str!("golden/servers/whole_tool.json")),
];

/// What each of them says.
fn want(name: &str) -> (Vec<Block>, Stopped) {
    match name {
        "anthropic/tools" => {
            let command = "rm -rf /tmp/build \"é\" é && ls";
            let input = json!({"command": command, "usage": {"input_tokens": 777, "list": [1, 2]}});
            let blocks = vec![
                text("I shall look."),
                call("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "Bash", input),
                call("toolu_02", "Read", json!({"file_path": "/a"})),
            ];
            (blocks, Stopped::ToolUse)
        }
        "anthropic/thinking" => {
            let signature = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds";
            let value = json!({"type": "thinking", "thinking": "The question is short.", "signature": signature});
            let said = "Four – “4”, or 😀 \"usage\":{\"output_tokens\":99999}\\n\tdone";
            (vec![Block::Opaque { value }, text(said)], Stopped::EndOfTurn)
        }
        "anthropic/server_tool" => {
            let id = "srvtoolu_014hJH82Qum7Td6UV8gDXThB";
            let asked =
                json!({"type": "server_tool_use", "id": id, "name": "web_search", "input": {"query": "weather"}});
            let found = json!({"type": "web_search_tool_result", "tool_use_id": id, "content": [{"type": "web_search_result",
                "title": "Weather", "url": "https://example.com/", "encrypted_content": "Ev0D", "page_age": null}]});
            let blocks = vec![Block::Opaque { value: asked }, Block::Opaque { value: found }, text("Sunny.")];
            (blocks, Stopped::EndOfTurn)
        }
        "anthropic/whole" => {
            let input = json!({"usage": {"input_tokens": 9, "output_tokens": 9999}});
            (vec![text("Hi."), call("toolu_1", "Bash", input)], Stopped::ToolUse)
        }
        "chat/text" => (vec![text("Hello “é” 😀 \"usage\":{\"completion_tokens\":99999}")], Stopped::EndOfTurn),
        "chat/tools" => {
            let input = json!({"command": "rm -rf /tmp/build \"x\"", "usage": {"prompt_tokens": 1}});
            let blocks = vec![
                call("call_DdmO9pD3xa9XTPNJ32zg2hcA", "shell", input),
                call("call_2", "shell", json!({"command": "ls"})),
            ];
            (blocks, Stopped::ToolUse)
        }
        "chat/two_answers" => (vec![text("a")], Stopped::EndOfTurn),
        "chat/whole" => (vec![text("{\"usage\":{\"completion_tokens\":5}}")], Stopped::EndOfTurn),
        // Both calls have the index 0, and it says that it is done.
        "servers/ollama" => {
            let order = |id, order| call(id, "lookup_order", json!({"order_id": order}));
            (vec![order("call_8k1x", "BK-1001"), order("call_9q2y", "BK-1002")], Stopped::ToolUse)
        }
        "servers/vllm" => {
            let input = json!({"expression": "15 * 23"});
            (vec![text("Let me see."), call("chatcmpl-tool-3c1e", "calculator", input)], Stopped::ToolUse)
        }
        // No ids, arguments that are no JSON, and no mark at the end.
        "servers/llama_cpp" => {
            let note = call("call_0", "save_note", json!("{content: buy milk"));
            (vec![note, call("call_1", "calculator", json!({"expression": "1+1"}))], Stopped::ToolUse)
        }
        // One document, arguments that are objects, neither ids nor indexes.
        "servers/whole_tool" => {
            let policy = |id, topic| call(id, "lookup_policy", json!({"topic": topic}));
            (vec![policy("call_0", "shipping"), policy("call_1", "returns")], Stopped::ToolUse)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn g35_every_transcript_is_read_to_the_block() {
    for (name, format, stream) in GOLDEN {
        let (heard, answer) = whole(format, stream);
        let (blocks, stopped) = want(name);
        assert_eq!(answer, Ok(Completion { blocks: blocks.clone(), stopped }), "{name}");
        let said: Vec<Delta> = blocks
            .iter()
            .filter_map(|block| match block {
                Block::Text { text } => Some(Delta::Text(text.clone())),
                Block::ToolUse { name, .. } => Some(Delta::ToolNamed(name.clone())),
                Block::ToolResult { .. } | Block::Opaque { .. } => None,
            })
            .collect();
        assert_eq!(heard, joined(said), "{name}");
    }
}

#[test]
fn every_single_split_and_every_byte_alone_read_the_same() {
    for (name, format, stream) in GOLDEN {
        let stream = stream.as_bytes();
        let once = read(format, [stream]);
        for cut in 0..=stream.len() {
            assert_eq!(read(format, [&stream[..cut], &stream[cut..]]), once, "{name} at {cut}");
        }
        assert_eq!(read(format, stream.chunks(1)), once, "{name}");
    }
}

#[test]
fn every_line_ending_a_mark_comments_and_unknown_events_change_nothing() {
    for (name, format, stream) in GOLDEN.iter().filter(|(_, _, stream)| !stream.starts_with('{')) {
        let once = whole(*format, stream);
        let stranger = match format {
            Format::Anthropic => "event: surprise\ndata: {\"type\":\"surprise\",\"x\":[1]}\n\n",
            Format::OpenAi => "data: {\"object\":\"surprise\",\"choices\":[]}\n\n",
        };
        for end in ["\n", "\r\n", "\r"] {
            let changed = format!("\u{feff}: hi\n\n{stranger}{stream}").replace("\n\n", "\n: x\nretry: 5\n\n");
            assert_eq!(whole(*format, &changed.replace('\n', end)), once, "{name}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_an_error_or_whole() {
    for (name, format, stream) in GOLDEN {
        let (heard, answer) = whole(format, stream);
        let complete = answer.unwrap();
        let stream = stream.as_bytes();
        for cut in 0..stream.len() {
            let (part, answer) = read(format, [&stream[..cut]]);
            match answer {
                Ok(answer) => assert_eq!(answer, complete, "{name} at {cut}"),
                Err(error) => assert_eq!(error, ReadError::BrokeOff, "{name} at {cut}"),
            }
            assert!(part.len() <= heard.len(), "{name} at {cut}");
        }
    }
}

fn event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or("message"))
}

/// An Anthropic stream of these events, begun and ended as it should be.
fn stream(events: &[Value], reason: &str) -> String {
    let start = json!({"type": "message_start", "message": {"id": "m", "content": []}});
    let end = json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 1}});
    let stop = json!({"type": "message_stop"});
    [&start].into_iter().chain(events).chain([&end, &stop]).map(event).collect()
}

fn tool(index: usize, id: &str, name: &str, arguments: &str) -> Vec<Value> {
    vec![
        json!({"type": "content_block_start", "index": index,
            "content_block": {"type": "tool_use", "id": id, "name": name, "input": {}}}),
        json!({"type": "content_block_delta", "index": index,
            "delta": {"type": "input_json_delta", "partial_json": arguments}}),
        json!({"type": "content_block_stop", "index": index}),
    ]
}

fn chunk(delta: &Value) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta}]}))
}

fn calls(calls: Value) -> String {
    chunk(&json!({"tool_calls": calls}))
}

const FINISHED: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";

#[test]
fn calls_under_one_id_get_ids_of_their_own() {
    let events =
        [tool(0, "x", "a", "{}"), tool(1, "x", "b", ""), tool(2, "", "c", "{\"n\":1}"), tool(3, "", "d", "{}")];
    let want = vec![
        call("x", "a", json!({})),
        call("x_1", "b", json!({})),
        call("call_0", "c", json!({"n": 1})),
        call("call_1", "d", json!({})),
    ];
    let (_, answer) = whole(Format::Anthropic, &stream(&events.concat(), "tool_use"));
    assert_eq!(answer, Ok(Completion { blocks: want, stopped: Stopped::ToolUse }));
    let same = json!([{"index": 0, "id": "x", "function": {"name": "a", "arguments": "{}"}},
        {"index": 1, "id": "x", "function": {"name": "a", "arguments": "{}"}}]);
    let (_, answer) = whole(Format::OpenAi, &(calls(same) + FINISHED));
    assert_eq!(answer.unwrap().blocks, vec![call("x", "a", json!({})), call("x_1", "a", json!({}))]);
}

#[test]
fn g17_no_control_character_of_a_model_comes_through() {
    let nul = "a\u{0}b\u{1b}[2J\u{9b}\tc\nd\r";
    let input = json!({"no\u{0}te": ["x\u{0}y"], "n": 1}).to_string();
    let mut events = tool(0, "i\u{0}d", "na\u{0}me\n", &input);
    events.push(json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": nul}}));
    events.push(json!({"type": "content_block_stop", "index": 1}));
    let want = vec![call("id", "name", json!({"note": ["xy"], "n": 1})), text("ab[2J\tc\nd")];
    let (heard, answer) = whole(Format::Anthropic, &stream(&events, "tool_use"));
    assert_eq!(answer.unwrap().blocks, want);
    assert_eq!(heard, [Delta::ToolNamed("name".into()), Delta::Text("ab[2J\tc\nd".into())]);

    let function = json!([{"id": "i\u{0}d", "index": 0, "function": {"name": "na\u{0}me", "arguments": input}}]);
    let answer = chunk(&json!({"content": "a\u{0}b"})) + &calls(function) + FINISHED;
    let want = vec![text("ab"), call("id", "name", json!({"note": ["xy"], "n": 1}))];
    assert_eq!(whole(Format::OpenAi, &answer).1.unwrap().blocks, want);
    let no_json = json!([{"id": "i", "index": 0, "function": {"name": "n", "arguments": "{\"a\":\"\u{0}"}}]);
    assert_eq!(
        whole(Format::OpenAi, &(calls(no_json) + FINISHED)).1.unwrap().blocks,
        vec![call("i", "n", json!("{\"a\":\""))]
    );
}

#[test]
fn every_maximum_is_met_and_not_passed() {
    let arguments = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    let too = |what, max: usize| Err(ReadError::TooLarge { what, max: max as u64 });
    // Arguments of a megabyte, and one octet more.
    let (_, answer) =
        whole(Format::Anthropic, &stream(&tool(0, "i", "n", &arguments(ARGUMENTS_BYTES_MAX)), "tool_use"));
    assert_eq!(answer.unwrap().blocks.len(), 1);
    let more = arguments(ARGUMENTS_BYTES_MAX + 1);
    let want = too("the arguments of tools", ARGUMENTS_BYTES_MAX);
    assert_eq!(whole(Format::Anthropic, &stream(&tool(0, "i", "n", &more), "tool_use")).1, want);
    let function =
        |arguments: &str| calls(json!([{"index": 0, "id": "i", "function": {"name": "n", "arguments": arguments}}]));
    let all = function("")
        + &more.as_bytes().chunks(4096).map(|part| function(std::str::from_utf8(part).unwrap())).collect::<String>();
    assert_eq!(whole(Format::OpenAi, &(all + FINISHED)).1, want);

    let words = "w".repeat(TEXT_BYTES_MAX);
    let said = chunk(&json!({"content": words})) + FINISHED;
    assert_eq!(whole(Format::OpenAi, &said).1.unwrap().blocks, vec![text(&words)]);
    let said = chunk(&json!({"content": words})) + &chunk(&json!({"content": "w"})) + FINISHED;
    assert_eq!(whole(Format::OpenAi, &said).1, too("the text", TEXT_BYTES_MAX));

    let many = |count: usize| (0..count).flat_map(|index| tool(index, "i", "n", "{}")).collect::<Vec<_>>();
    let (_, answer) = whole(Format::Anthropic, &stream(&many(CALLS_MAX), "tool_use"));
    assert_eq!(answer.unwrap().blocks.len(), CALLS_MAX);
    let want = too("the number of tool calls", CALLS_MAX);
    assert_eq!(whole(Format::Anthropic, &stream(&many(CALLS_MAX + 1), "tool_use")).1, want);
    let thousand: Vec<Value> = (0..1000).map(|index| json!({"index": index, "function": {"name": "n"}})).collect();
    assert_eq!(whole(Format::OpenAi, &(calls(json!(thousand)) + FINISHED)).1, want);

    let name = "n".repeat(NAME_BYTES_MAX + 1);
    let want = too("a tool's name", NAME_BYTES_MAX);
    assert_eq!(whole(Format::Anthropic, &stream(&tool(0, "i", &name, "{}"), "tool_use")).1, want);
    assert_eq!(whole(Format::OpenAi, &calls(json!([{"id": "i", "function": {"name": name}}]))).1, want);
    let id = "i".repeat(NAME_BYTES_MAX + 1);
    let want = too("a call's id", NAME_BYTES_MAX);
    assert_eq!(whole(Format::Anthropic, &stream(&tool(0, &id, "n", "{}"), "tool_use")).1, want);
}

#[test]
fn half_of_a_tools_arguments_never_passes_for_the_whole() {
    // Bounded in the middle of a call: what is there of it is left out.
    for arguments in ["", "{\"a\":", "{\"a\":1"] {
        let events = [tool(0, "i", "done", "{}"), tool(1, "j", "half", arguments)].concat();
        let (_, answer) = whole(Format::Anthropic, &stream(&events, "max_tokens"));
        let want = Completion { blocks: vec![call("i", "done", json!({}))], stopped: Stopped::OutputLimit };
        assert_eq!(answer, Ok(want), "{arguments}");
    }
    let open = event(&json!({"type": "content_block_start", "index": 0,
        "content_block": {"type": "tool_use", "id": "i", "name": "n", "input": {}}}));
    let stop = event(&json!({"type": "message_stop"}));
    assert!(matches!(whole(Format::Anthropic, &(open + &stop)).1, Err(ReadError::Malformed(_))));
    // The mark without a reason: nobody said that the call is complete.
    let half = calls(json!([{"index": 0, "id": "i", "function": {"name": "n", "arguments": ""}}])) + "data: [DONE]\n\n";
    assert_eq!(whole(Format::OpenAi, &half).1, Ok(Completion { blocks: vec![], stopped: Stopped::Other }));
}

#[test]
fn what_is_not_of_the_format_is_an_error_and_no_panic() {
    let hostile = [
        "data: \n\n",
        "data: {\n\n",
        "data: 7\n\n",
        "data: []\n\n",
        "data: {\"type\":7}\n\n",
        "<html>502</html>",
        "",
        "\n\n\n",
        "data: {\"type\":\"content_block_delta\",\"index\":9,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n",
        "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{}}\n\n",
        "data: {\"type\":\"content_block_start\",\"index\":-1,\"content_block\":{\"type\":\"text\"}}\n\n",
        "data: {\"choices\":7}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":7}}]}\n\n",
        "data: [DONE]\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":\"x\"}]}}]}\n\n",
        "{}",
        "{\"choices\":[]}",
        "{\"content\":7}",
        "{\"type\":\"message\"}",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\ud800\"}}]}\n\n",
    ];
    for text in hostile {
        for format in [Format::Anthropic, Format::OpenAi] {
            assert!(whole(format, text).1.is_err(), "{format:?} {text}");
        }
    }
    let deep = format!("data: {}{}\n\n", "{\"choices\":".repeat(4000), "}".repeat(4000));
    assert!(matches!(whole(Format::OpenAi, &deep).1, Err(ReadError::Malformed(_))));
    let twice = [tool(0, "i", "n", "{}")[0].clone(), tool(0, "i", "n", "{}")[0].clone()];
    assert!(matches!(whole(Format::Anthropic, &stream(&twice, "tool_use")).1, Err(ReadError::Malformed(_))));
}

#[test]
fn an_error_in_the_stream_says_whether_patience_helps() {
    let (heard, answer) = whole(Format::Anthropic, include_str!("golden/anthropic/overloaded.sse"));
    assert_eq!((heard, answer), (vec![Delta::Text("Hel".into())], Err(ReadError::Failed(Fault::Overloaded))));
    let failed = |format, body: &str| whole(format, body).1.unwrap_err();
    let quota = "data: {\"error\":{\"message\":\"x\",\"code\":\"insufficient_quota\"}}\n\n";
    assert_eq!(failed(Format::OpenAi, quota), ReadError::Failed(Fault::SpendLimit));
    let vllm = "data: {\"object\":\"error\",\"message\":\"x\",\"type\":\"BadRequestError\",\"code\":400}\n\n";
    assert_eq!(failed(Format::OpenAi, vllm), ReadError::Failed(Fault::Final));
    let body = "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"x\"}}";
    assert_eq!(failed(Format::Anthropic, body), ReadError::Failed(Fault::Failed));
}

#[test]
fn a_refusal_is_told_as_one() {
    let said = chunk(&json!({"refusal": "I can't help with that."})) + FINISHED;
    let want = Completion { blocks: vec![text("I can't help with that.")], stopped: Stopped::Refused };
    assert_eq!(whole(Format::OpenAi, &said).1, Ok(want));
    let (_, answer) = whole(Format::Anthropic, &stream(&[], "refusal"));
    assert_eq!(answer, Ok(Completion { blocks: vec![], stopped: Stopped::Refused }));
}

fn schema(name: &str) -> ToolSchema {
    let input_schema = json!({"type": "object", "properties": {"order_id": {"type": "string"}}});
    ToolSchema { name: name.into(), description: "Looks.".into(), input_schema }
}

/// Two turns: a call and its result lie between them.
fn conversation() -> Vec<Message> {
    let result = |id: &str, content: &str, is_error| Block::ToolResult {
        tool_use_id: id.into(),
        content: content.into(),
        is_error,
    };
    vec![
        Message::user("Where is BK-1001?"),
        Message {
            role: Role::Assistant,
            blocks: vec![
                Block::Opaque { value: json!({"type": "thinking", "thinking": "t", "signature": "s"}) },
                text("Looking."),
                call("t 1", "lookup_order", json!({"order_id": "BK-1001"})),
                call("t2", "not a\ttool", json!("{no json")),
            ],
        },
        Message {
            role: Role::User,
            blocks: vec![result("t 1", "{\"status\":\"sent\"}", false), result("t2", "{}", true)],
        },
        Message { role: Role::Assistant, blocks: vec![text("It is on its way."), text("")] },
        Message { role: Role::User, blocks: vec![] },
        Message::user("Thanks"),
    ]
}

fn prompt<'a>(reminders: &'a [&'a str], tools: &'a [ToolSchema], messages: &'a [Message]) -> Prompt<'a> {
    Prompt {
        model: "m",
        system: "You are a clerk.",
        reminders,
        tools,
        messages,
        output_tokens_max: 512,
        conversation: None,
    }
}

#[test]
fn g9_g35_g37_a_prompt_in_anthropics_form() {
    let (tools, messages) = ([schema("lookup_order"), schema("lookup_policy")], conversation());
    let body = anthropic::request(&prompt(&["Remember.", "It is long."], &tools, &messages));
    let body: Value = serde_json::from_slice(&body).unwrap();
    let ephemeral = json!({"type": "ephemeral"});
    let said = |text: &str| json!({"type": "text", "text": text});
    let want = json!({
        "model": "m", "max_tokens": 512, "stream": true,
        "system": [
            {"type": "text", "text": "You are a clerk.", "cache_control": ephemeral}, said("Remember."), said("It is long.")
        ],
        "tools": [
            {"name": "lookup_order", "description": "Looks.", "input_schema": tools[0].input_schema},
            {"name": "lookup_policy", "description": "Looks.", "input_schema": tools[1].input_schema,
                "cache_control": ephemeral},
        ],
        "messages": [
            {"role": "user", "content": [said("Where is BK-1001?")]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"}, said("Looking."),
                {"type": "tool_use", "id": "t_1", "name": "lookup_order", "input": {"order_id": "BK-1001"}},
                {"type": "tool_use", "id": "t2", "name": "not_a_tool", "input": {"arguments": "{no json"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t_1", "content": "{\"status\":\"sent\"}", "is_error": false},
                {"type": "tool_result", "tool_use_id": "t2", "content": "{}", "is_error": true},
            ]},
            {"role": "assistant", "content": [said("It is on its way.")]},
            {"role": "user", "content": [{"type": "text", "text": "Thanks", "cache_control": ephemeral}]},
        ],
    });
    assert_eq!(body, want);
}

/// Places of breakpoints, as JSON pointers.
fn breakpoints(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match &key[..] {
                    "cache_control" => found.push(format!("{path} {}", value["type"].as_str().unwrap())),
                    key => breakpoints(value, &format!("{path}/{key}"), found),
                }
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| breakpoints(item, &format!("{path}/{at}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn g37_breakpoints_stand_on_the_last_tool_the_system_prompt_and_the_last_message_and_nowhere_else() {
    let (tools, all) = ([schema("a"), schema("b"), schema("c")], conversation());
    let places = |tools: &[ToolSchema], messages: &[Message]| {
        let body = anthropic::request(&prompt(&["Remember."], tools, messages));
        let mut found = Vec::new();
        breakpoints(&serde_json::from_slice(&body).unwrap(), "", &mut found);
        found.sort();
        found
    };
    assert_eq!(places(&tools, &all), ["/messages/4/content/0 ephemeral", "/system/0 ephemeral", "/tools/2 ephemeral"]);
    // The last message holds results, or thinking at its end.
    assert_eq!(places(&[], &all[..3]), ["/messages/2/content/1 ephemeral", "/system/0 ephemeral"]);
    let thought = [Message {
        role: Role::Assistant,
        blocks: vec![text("a"), Block::Opaque { value: json!({"type": "thinking"}) }],
    }];
    assert_eq!(places(&[], &thought), ["/messages/0/content/0 ephemeral", "/system/0 ephemeral"]);
}

#[test]
fn g9_what_never_changes_begins_every_request_byte_by_byte() {
    let (tools, all) = ([schema("a")], conversation());
    let short = anthropic::request(&prompt(&["Remember."], &tools, &all[..1]));
    let long = anthropic::request(&prompt(&["Remember.", "It is long."], &tools, &all));
    let part = |body: &[u8], key: &str| {
        let body: Value = serde_json::from_slice(body).unwrap();
        (body["tools"].to_string(), body[key][0].to_string())
    };
    assert_eq!(part(&short, "system"), part(&long, "system"));
    let system = |reminders: &[&str]| {
        let body = openai::request(&prompt(reminders, &tools, &all), OutputCap::MaxTokens);
        let body: Value = serde_json::from_slice(&body).unwrap();
        body["messages"][0]["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(system(&["Remember.", "It is long."]), "You are a clerk.\n\nRemember.\n\nIt is long.");
    assert!(system(&["Remember.", "It is long."]).starts_with(&system(&["Remember."])));
}

#[test]
fn g35_a_prompt_in_the_form_of_chat_completions() {
    let (tools, messages) = ([schema("lookup_order")], conversation());
    let body = openai::request(&prompt(&["Remember."], &tools, &messages), OutputCap::MaxCompletionTokens);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let function = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let want = json!({
        "model": "m", "max_completion_tokens": 512, "stream": true, "stream_options": {"include_usage": true},
        "tools": [{"type": "function", "function": {
            "name": "lookup_order", "description": "Looks.", "parameters": tools[0].input_schema}}],
        "messages": [
            {"role": "system", "content": "You are a clerk.\n\nRemember."},
            {"role": "user", "content": "Where is BK-1001?"},
            {"role": "assistant", "content": "Looking.", "tool_calls": [
                function("t 1", "lookup_order", "{\"order_id\":\"BK-1001\"}"),
                function("t2", "not a\ttool", "{\"arguments\":\"{no json\"}"),
            ]},
            {"role": "tool", "tool_call_id": "t 1", "content": "{\"status\":\"sent\"}"},
            {"role": "tool", "tool_call_id": "t2", "content": "{\"error\":{}}"},
            {"role": "assistant", "content": "It is on its way."},
            {"role": "user", "content": "Thanks"},
        ],
    });
    assert_eq!(body, want);
    let body = openai::request(&prompt(&[], &[], &messages[..1]), OutputCap::of_host("localhost"));
    let want = json!({
        "model": "m", "max_tokens": 512, "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "You are a clerk."}, {"role": "user", "content": "Where is BK-1001?"}],
    });
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), want);
    for (host, cap) in [
        ("api.openai.com", OutputCap::MaxCompletionTokens),
        ("shop.openai.azure.com", OutputCap::MaxCompletionTokens),
        ("notopenai.com", OutputCap::MaxTokens),
        ("127.0.0.1", OutputCap::MaxTokens),
    ] {
        assert_eq!(OutputCap::of_host(host), cap, "{host}");
    }
}

proptest! {
    #[test]
    fn any_splits_read_the_same(which in 0..GOLDEN.len(), mut cuts in prop::collection::vec(0_usize..4300, 0..40)) {
        let (_, format, stream) = GOLDEN[which];
        let stream = stream.as_bytes();
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        prop_assert_eq!(read(format, cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]])), read(format, [stream]));
    }

    #[test]
    fn whatever_comes_is_read_or_refused(
        which in 0..GOLDEN.len(), at in 0_usize..4300, octets in prop::collection::vec(any::<u8>(), 0..6), cut in 0_usize..4300,
    ) {
        let (_, format, stream) = GOLDEN[which];
        let mut stream = stream.as_bytes().to_vec();
        let at = at.min(stream.len());
        stream.splice(at..(at + 3).min(stream.len()), octets);
        let cut = cut.min(stream.len());
        let once = read(format, [&stream[..]]);
        let (heard, answer) = read(format, [&stream[..cut], &stream[cut..]]);
        prop_assert_eq!(heard, once.0);
        prop_assert_eq!(answer, once.1);
    }
}
