#!/usr/bin/env bash
# openapi-generator 7.26.0, Java with the library `native`: an upload of application/octet-stream sends the path of the file.
#
# A request body of `type: string, format: binary` becomes a parameter of type java.io.File. The method writes it with
# Jackson, as it would an object: what is sent is the path of the file as a JSON string, in quotes. The server stores
# that, and neither side has an error. A request interceptor that sets the body again is a way around it.
#
# Output seen: "sent: "/tmp/.../uploaded" (the path in quotes), not the 5 bytes of the file"
#
# Needs a JDK 17 (javac and java).
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv venv
venv/bin/pip install -q openapi-generator-cli==7.26.0
jar=$(find venv -name openapi-generator.jar)

cat > upload.json <<'JSON'
{"openapi": "3.0.3", "info": {"title": "upload", "version": "1"}, "servers": [{"url": "/"}],
 "paths": {"/file": {"put": {"operationId": "upload", "responses": {"200": {"description": "stored"}},
   "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}}}}
JSON
venv/bin/openapi-generator-cli generate -g java -i upload.json -o client \
    --additional-properties library=native,openApiNullable=false,apiPackage=api,modelPackage=model,invokerPackage=client \
    --global-property apis,models,supportingFiles,apiTests=false,apiDocs=false,modelTests=false,modelDocs=false > log 2>&1

mkdir -p sources/javax/annotation
cat > sources/javax/annotation/Generated.java <<'JAVA'
package javax.annotation;

public @interface Generated {
    String[] value();
    String date() default "";
    String comments() default "";
}
JAVA
cat > sources/Upload.java <<'JAVA'
import com.sun.net.httpserver.HttpServer;
import java.io.File;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.util.concurrent.atomic.AtomicReference;

public class Upload {
    public static void main(String[] given) throws Exception {
        var sent = new AtomicReference<String>();
        var server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/file", exchange -> {
            sent.set(new String(exchange.getRequestBody().readAllBytes()));
            exchange.sendResponseHeaders(200, -1);
            exchange.close();
        });
        server.start();
        File file = new File(given[0]);
        Files.writeString(file.toPath(), "hello");
        var client = new client.ApiClient();
        client.updateBaseUri("http://127.0.0.1:" + server.getAddress().getPort());
        new api.DefaultApi(client).upload(file);
        server.stop(0);
        boolean path = sent.get().equals('"' + file.getPath() + '"');
        System.out.println("sent: " + sent.get() + (path ? " (the path in quotes), not the 5 bytes of the file" : ""));
        System.exit(path ? 0 : 1);
    }
}
JAVA
find sources client/src/main -name '*.java' > files
javac -nowarn -cp "$jar" -d classes @files 2> /dev/null
java -cp "classes:$jar" Upload "$scratch/uploaded"
