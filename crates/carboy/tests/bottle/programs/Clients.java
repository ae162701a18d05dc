// The client of Java's own library asks for what is allowed, for what carries a secret, and for a host that no route names,
// and says in a line what came of it: `library|what|outcome`. Nothing in here knows of carboy.
import java.net.URI;
import java.net.http.*;
import java.util.concurrent.*;

public class Clients {
    interface Call {
        String ask(String host, String text) throws Exception;
    }

    static final HttpClient CLIENT = HttpClient.newHttpClient();

    static String http(String host, String text) throws Exception {
        var body = HttpRequest.BodyPublishers.ofString(text);
        var request = HttpRequest.newBuilder(URI.create("https://" + host + "/echo?java")).POST(body).build();
        var answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        return answer.statusCode() + " " + answer.version() + " " + answer.body();
    }

    static String socket(String host, String text) throws Exception {
        var told = new CompletableFuture<String>();
        var listener = new WebSocket.Listener() {
            public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
                told.complete(data.toString());
                return null;
            }
            public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
                told.complete("closed " + code + " " + reason);
                return null;
            }
            public void onError(WebSocket socket, Throwable error) {
                told.completeExceptionally(error);
            }
        };
        var socket = CLIENT.newWebSocketBuilder().buildAsync(URI.create("wss://" + host + "/socket"), listener);
        socket.get(20, TimeUnit.SECONDS).sendText(text, true);
        return told.get(20, TimeUnit.SECONDS);
    }

    static void attempt(String client, String what, Call call, String host, String text) {
        String outcome;
        try {
            outcome = call.ask(host, text);
        } catch (Exception error) {
            outcome = "";
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                outcome += cause + " ";
            }
        }
        System.out.println(client + "|" + what + "|" + outcome.replace("\n", " "));
    }

    static void all(String client, Call call, String secret) {
        attempt(client, "allowed", call, "notes.example", "hello from " + client);
        attempt(client, "secret", call, "notes.example", client + ", " + secret);
        attempt(client, "denied", call, "denied.example", "anybody there?");
    }

    public static void main(String[] arguments) {
        all("java http", Clients::http, arguments[0]);
        all("java socket", Clients::socket, arguments[0]);
        System.exit(0);
    }
}
