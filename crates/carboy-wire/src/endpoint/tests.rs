//! The tables as they are read: what passes, what is metered, what is refused, and no way around them.

use WireFormat::{AnthropicMessages, Gemini, OpenAiChat, OpenAiResponses};

use super::*;

const ANTHROPIC: &str = "api.anthropic.com";
const OPENAI: &str = "api.openai.com";
const GEMINI: &str = "generativelanguage.googleapis.com";

fn at(meter: &str, host: &str, method: &str, path: &str) -> Option<Endpoint> {
    of(MeterName::parse(meter).ok().as_ref(), &Host::parse(host).unwrap(), method, path)
}

fn refused(meter: &str, host: &str, method: &str, path: &str) -> bool {
    matches!(at(meter, host, method, path), Some(Endpoint::Refused { .. }))
}

#[test]
fn c2_what_has_a_model_run_is_metered_by_its_format() {
    for (host, path, want) in [
        (ANTHROPIC, "/v1/messages", Endpoint::Generate(AnthropicMessages)),
        (ANTHROPIC, "/v1/chat/completions", Endpoint::Generate(OpenAiChat)),
        (ANTHROPIC, "/v1/messages/count_tokens", Endpoint::Count(AnthropicMessages)),
        (OPENAI, "/v1/chat/completions", Endpoint::Generate(OpenAiChat)),
        (OPENAI, "/v1/completions", Endpoint::Generate(OpenAiChat)),
        (OPENAI, "/v1/responses", Endpoint::Generate(OpenAiResponses)),
        (OPENAI, "/v1/responses/", Endpoint::Generate(OpenAiResponses)),
        (OPENAI, "/v1/responses/input_tokens", Endpoint::Count(OpenAiResponses)),
        (OPENAI, "/v1/embeddings", Endpoint::Embed(OpenAiChat)),
        ("chatgpt.com", "/backend-api/codex/responses", Endpoint::Generate(OpenAiResponses)),
        ("mine.openai.azure.com", "/openai/deployments/gpt/chat/completions", Endpoint::Generate(OpenAiChat)),
        ("mine.openai.azure.com", "/openai/responses", Endpoint::Generate(OpenAiResponses)),
        (GEMINI, "/v1beta/models/gemini-2.5-flash:generateContent", Endpoint::Generate(Gemini)),
        (GEMINI, "/v1beta/models/gemini-2.5-flash:streamGenerateContent", Endpoint::Generate(Gemini)),
        (GEMINI, "/v1beta/tunedModels/x:generateContent", Endpoint::Generate(Gemini)),
        (GEMINI, "/v1beta/models/gemini-2.5-flash:countTokens", Endpoint::Count(Gemini)),
        (GEMINI, "/v1beta/models/gemini-embedding-001:batchEmbedContents", Endpoint::Embed(Gemini)),
        (GEMINI, "/v1beta/openai/chat/completions", Endpoint::Generate(OpenAiChat)),
        (GEMINI, "/v1beta/openai/embeddings", Endpoint::Embed(OpenAiChat)),
    ] {
        assert_eq!(at("", host, "POST", path), Some(want), "{host}{path}");
    }
    // The beginning of a WebSocket.
    assert_eq!(at("", OPENAI, "GET", "/v1/responses"), Some(Endpoint::Generate(OpenAiResponses)));
}

#[test]
fn what_runs_no_model_is_free() {
    for (host, method, path) in [
        (ANTHROPIC, "GET", "/v1/models"),
        (ANTHROPIC, "POST", "/v1/files"),
        (ANTHROPIC, "POST", "/api/event_logging/v2/batch"),
        (ANTHROPIC, "POST", "/api/event_logging/batch"),
        (ANTHROPIC, "GET", "/api/claude_cli/bootstrap"),
        (ANTHROPIC, "POST", "/api/eval/sdk-x"),
        (ANTHROPIC, "GET", "/v1/messages/batches/msgbatch_1/results"),
        (OPENAI, "GET", "/v1/models/ft:gpt-4o:org::id"),
        (OPENAI, "GET", "/v1/responses/resp_1"),
        (OPENAI, "GET", "/v1/responses/resp_1/input_items"),
        (OPENAI, "POST", "/v1/responses/resp_1/cancel"),
        (OPENAI, "DELETE", "/v1/responses/resp_1"),
        (OPENAI, "POST", "/v1/traces"),
        (OPENAI, "POST", "/v1/traces/ingest/"),
        (OPENAI, "POST", "/v1/uploads/upload_1/parts"),
        (OPENAI, "POST", "/v1/moderations"),
        (OPENAI, "GET", "/v1/chat/completions"),
        ("chatgpt.com", "GET", "/backend-api/codex/models"),
        ("chatgpt.com", "POST", "/backend-api/plugins/export/curated"),
        (GEMINI, "GET", "/v1beta/models"),
        (GEMINI, "POST", "/upload/v1beta/files"),
        ("cloudcode-pa.googleapis.com", "POST", "/v1internal:loadCodeAssist"),
    ] {
        assert_eq!(at("", host, method, path), Some(Endpoint::Free), "{method} {host}{path}");
    }
}

#[test]
fn what_cannot_be_metered_is_refused_and_says_why() {
    for (host, method, path) in [
        (ANTHROPIC, "POST", "/v1/messages/batches"),
        (ANTHROPIC, "POST", "/v1/complete"),
        (ANTHROPIC, "POST", "/v1/agents"),
        (ANTHROPIC, "POST", "/v1/something_new"),
        (ANTHROPIC, "BREW", "/v1/something_new"),
        (ANTHROPIC, "POST", "/api/organizations/1/chat_conversations/2/completion"),
        (OPENAI, "POST", "/v1/batches"),
        (OPENAI, "GET", "/v1/realtime"),
        (OPENAI, "POST", "/v1/realtime/sessions"),
        (OPENAI, "POST", "/v1/images/generations"),
        (OPENAI, "POST", "/v1/audio/speech"),
        (OPENAI, "POST", "/v1/videos"),
        (OPENAI, "POST", "/v1/fine_tuning/jobs"),
        (OPENAI, "POST", "/v1/threads/t/runs"),
        (OPENAI, "POST", "/v1/assistants"),
        (OPENAI, "POST", "/v1/responses/compact"),
        (OPENAI, "POST", "/v1/vector_stores/x/search"),
        (OPENAI, "POST", "/v1/engines/davinci/completions"),
        (OPENAI, "POST", "/v1"),
        ("chatgpt.com", "POST", "/backend-api/codex/responses/compact"),
        ("chatgpt.com", "POST", "/backend-api/conversation"),
        ("chatgpt.com", "POST", "/backend-api/f/conversation"),
        ("chatgpt.com", "POST", "/backend-api/wham/tasks"),
        (GEMINI, "POST", "/v1beta/models/gemini:batchGenerateContent"),
        (GEMINI, "POST", "/v1beta/models/imagen:predict"),
        (GEMINI, "POST", "/v1beta/models/veo:predictLongRunning"),
        (GEMINI, "POST", "/v1beta/cachedContents"),
        (GEMINI, "POST", "/v1beta/interactions"),
        (GEMINI, "POST", "/batch"),
        (GEMINI, "POST", "/google.ai.generativelanguage.v1beta.GenerativeService/GenerateContent"),
        (GEMINI, "POST", "/$rpc/google.ai.generativelanguage.v1beta.GenerativeService/GenerateContent"),
        (GEMINI, "POST", "/v1beta/models/x:somethingNew"),
        ("cloudcode-pa.googleapis.com", "POST", "/v1internal:streamGenerateContent"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "POST", "/model/anthropic.claude-v2/invoke"),
        ("bedrock-runtime-fips.us-east-1.amazonaws.com", "POST", "/model/x/converse-stream"),
        ("bedrock-agent-runtime.us-east-1.amazonaws.com", "POST", "/retrieveAndGenerate"),
        ("vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com", "POST", "/model/x/invoke"),
        (
            "us-central1-aiplatform.googleapis.com",
            "POST",
            "/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
        ),
        ("aiplatform.googleapis.com", "GET", "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict"),
        ("gateway.example", "POST", "/model/arn:aws:bedrock:us-east-1:1:inference-profile/x/converse"),
        ("gateway.example", "POST", "/v1/projects/p/publishers/anthropic/models/c:streamRawPredict"),
        ("gateway.example", "POST", "/anthropic/v1/messages/batches"),
    ] {
        let found = at("", host, method, path);
        let Some(Endpoint::Refused { why }) = found else { panic!("{method} {host}{path}: {found:?}") };
        assert!(why.len() > 20 && !why.ends_with('.'), "{why}");
    }
}

#[test]
fn a_route_with_a_meter_is_read_as_strictly_as_the_providers_own_host() {
    for meter in ["claude", "anthropic", "openai", "codex", "gemini", "mine"] {
        assert!(refused(meter, "gateway.example", "POST", "/v1/batches"), "{meter}");
        assert!(refused(meter, "gateway.example", "POST", "/v1/something_new"), "{meter}");
        let messages = at(meter, "gateway.example", "POST", "/base/v1/messages");
        assert_eq!(messages, Some(Endpoint::Generate(AnthropicMessages)));
    }
    assert_eq!(at("codex", "gateway.example", "POST", "/responses"), Some(Endpoint::Generate(OpenAiResponses)));
    assert_eq!(at("mine", "gateway.example", "POST", "/api/settings"), Some(Endpoint::Free));
    // Self-hosted servers, Databricks, SageMaker, Hugging Face: none of these has a version.
    for path in
        ["/generate_stream", "/", "/infill", "/serving-endpoints/x/invocations", "/models/meta/x", "/api/generate/x"]
    {
        assert!(refused("mine", "gateway.example", "POST", path), "{path}");
    }
    assert!(refused("mine", "gateway.example", "POST", "/v1/chat/completions/again"));
    // No meter makes meterable what is not.
    assert!(refused("anthropic", "bedrock-runtime.us-east-1.amazonaws.com", "POST", "/model/x/invoke"));
}

#[test]
fn an_unknown_host_is_a_models_where_it_speaks_as_one_and_nobodys_business_elsewhere() {
    for (path, want) in [
        ("/v1/messages", Endpoint::Generate(AnthropicMessages)),
        ("/api/v1/chat/completions", Endpoint::Generate(OpenAiChat)),
        ("/chat/completions", Endpoint::Generate(OpenAiChat)),
        ("/v1/responses", Endpoint::Generate(OpenAiResponses)),
        ("/v1/embeddings", Endpoint::Embed(OpenAiChat)),
        ("/v1beta/models/x:generateContent", Endpoint::Generate(Gemini)),
    ] {
        assert_eq!(at("", "gateway.example", "POST", path), Some(want), "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/messages"),
        ("GET", "/v1/responses"),
        ("POST", "/v1/files"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/models/mnist:predict"),
        ("POST", "/messages"),
        ("POST", "/graphql"),
    ] {
        assert_eq!(at("", "example.org", method, path), None, "{method} {path}");
    }
}

#[test]
fn a_providers_own_interface_is_metered_on_a_route_without_a_meter() {
    for (host, path, want) in [
        ("api.deepseek.com", "/beta/completions", Endpoint::Generate(OpenAiChat)),
        ("api.mistral.ai", "/v1/fim/completions", Endpoint::Generate(OpenAiChat)),
        ("gateway.example", "/v1/agents/completions", Endpoint::Generate(OpenAiChat)),
        ("x.cognitiveservices.azure.com", "/openai/responses", Endpoint::Generate(OpenAiResponses)),
        ("x.services.ai.azure.com", "/openai/deployments/d/embeddings", Endpoint::Embed(OpenAiChat)),
        ("generativelanguage.mtls.googleapis.com", "/v1beta/models/x:generateContent", Endpoint::Generate(Gemini)),
        ("gateway.example", "/v1/chat/completions%3fx", Endpoint::Generate(OpenAiChat)),
        ("gateway.example", "/v1%5cchat%5ccompletions.%20", Endpoint::Generate(OpenAiChat)),
    ] {
        assert_eq!(at("", host, "POST", path), Some(want), "{host}{path}");
    }
    for (host, path) in [
        ("api.cohere.com", "/v2/chat"),
        ("router.huggingface.co", "/hf-inference/models/x"),
        ("claude.ai", "/api/organizations/o/chat_conversations/c/completion"),
        ("generativelanguage.mtls.googleapis.com", "/batch"),
        ("gateway.example", "/v1/complete"),
    ] {
        assert!(refused("", host, "POST", path), "{host}{path}");
    }
    let mtls = Host::parse("generativelanguage.mtls.googleapis.com").unwrap();
    assert_eq!(meter_of(None, &mtls, Gemini).as_str(), "gemini");
}

#[test]
fn no_spelling_of_a_path_makes_a_model_free() {
    for path in [
        "/V1/Messages",
        "//v1//messages",
        "/v1/./messages",
        "/v1/messages/",
        "/v1/%6dessages",
        "/v1/%256dessages",
        "/v1;x=1/messages;y",
        "/v1/messages%2f",
        "/%76%31/messages",
    ] {
        assert_eq!(at("", ANTHROPIC, "POST", path), Some(Endpoint::Generate(AnthropicMessages)), "{path}");
    }
    for path in
        ["/v1beta/models/x%3AgenerateContent", "/v1beta/models/x%3agenerateContent", "/V1BETA/models/x:GENERATECONTENT"]
    {
        for method in ["POST", "GET", "PUT", "OPTIONS"] {
            assert_eq!(at("", GEMINI, method, path), Some(Endpoint::Generate(Gemini)), "{method} {path}");
        }
    }
}

#[test]
fn c2_a_request_is_booked_to_the_route_meter_or_to_whose_host_it_is() {
    for (meter, host, want) in [
        ("", ANTHROPIC, "anthropic"),
        ("", OPENAI, "openai"),
        ("", "chatgpt.com", "openai"),
        ("", GEMINI, "gemini"),
        ("", "openrouter.ai", "unknown"),
        ("claude", "openrouter.ai", "anthropic"),
        ("codex", ANTHROPIC, "openai"),
        ("mine", ANTHROPIC, "mine"),
    ] {
        let meter = MeterName::parse(meter).ok();
        let found = meter_of(meter.as_ref(), &Host::parse(host).unwrap(), OpenAiChat);
        assert_eq!(found.as_str(), want, "{host}");
    }
}

#[test]
fn a_version_is_told_from_other_words() {
    for version in ["v1", "v1beta", "v1beta2", "v1alpha", "v2"] {
        assert!(is_version(version), "{version}");
    }
    for other in ["v", "vx", "v1internal", "version", "1", "v1betax", ""] {
        assert!(!is_version(other), "{other}");
    }
}
