import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** The JDK's own client as it is by default: over plain http it offers to upgrade to HTTP/2. */
public class JdkClient {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String base = arguments[0], key = arguments[1];
        for (int place = 2; place < arguments.length; place += 2) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(base + arguments[place]))
                .header("Authorization", "Bearer " + key)
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[place + 1]))
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
