// A job from end to end, with the Java clients that openapi-generator has generated.

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import composer.api.ArtifactsApi;
import composer.model.Job;
import composer.model.JobState;
import composer.model.SubmitJob;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.UncheckedIOException;
import java.math.BigInteger;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.UUID;
import worker.api.JobsApi;
import worker.model.FinishJob;
import worker.model.ReportProgress;
import worker.model.RequestJob;
import worker.model.RequestedJob;
import worker.model.UpdateJob;

public class GeneratedWorker {
    private static final String NAME = "grüße 1.bin";

    private static void same(Object got, Object wanted) {
        if (!Objects.equals(got, wanted)) {
            throw new AssertionError(got + " instead of " + wanted);
        }
    }

    private static RequestedJob take(JobsApi jobs, String type) throws worker.ApiException {
        return jobs.requestJob(new RequestJob().types(List.of(type)).arch("x86_64").confirm(true), "20s");
    }

    private static void finish(JobsApi jobs, UUID token, Object result) throws worker.ApiException {
        jobs.updateJob(token, new UpdateJob(new FinishJob().result(result)));
    }

    private static BodyPublisher contentOf(File file) {
        try {
            return BodyPublishers.ofFile(file.toPath());
        } catch (FileNotFoundException exc) {
            throw new UncheckedIOException(exc);
        }
    }

    @SuppressWarnings("unchecked")
    public static void main(String[] given) throws Exception {
        String url = given[0];
        File file = new File(given[1]);
        // BigDecimal for what is no integer: without this, a number beyond a double's range becomes infinite.
        ObjectMapper exact = worker.ApiClient.createDefaultObjectMapper()
            .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS);
        Object odd = exact.readValue(given[3], Object.class);
        var builder = java.net.http.HttpClient.newBuilder();
        String authorization = "Bearer " + System.getenv("TOKEN");
        var working = new worker.ApiClient(builder, exact, url + "/api/worker/v1")
            .setRequestInterceptor(request -> request.header("Authorization", authorization));
        var composing = new composer.ApiClient(builder, exact, url + "/api/composer/v1")
            .setRequestInterceptor(request -> request.header("Authorization", authorization));
        var jobs = new JobsApi(working);
        var submitting = new composer.api.JobsApi(composing);

        RequestedJob raw = take(jobs, "raw");
        finish(jobs, raw.getToken(), raw.getArgs());

        Job submitted = submitting.submitJob(new SubmitJob().type("own").args(odd));
        RequestedJob job = take(jobs, "own");
        UUID token = job.getToken();
        same(job.getId(), submitted.getId());
        same(job.getArgs(), odd);
        same(((Map<String, Object>) job.getArgs()).get("big"), BigInteger.TWO.pow(63).add(BigInteger.ONE));
        // The generated method would send the path of the file, as JSON: the body is replaced by the file.
        var uploading = new worker.ApiClient(builder, exact, url + "/api/worker/v1")
            .setRequestInterceptor(request -> request.header("Authorization", authorization).PUT(contentOf(file)));
        new worker.api.ArtifactsApi(uploading).uploadJobArtifact(token, NAME, null, file);
        jobs.updateJob(token, new UpdateJob(new ReportProgress().partial(Map.of("done", 1))));
        same(jobs.getJob(token, null).getCanceled(), false);
        finish(jobs, token, job.getArgs());

        Job ended = submitting.getJob(submitted.getId(), "20s");
        same(ended.getState(), JobState.FINISHED);
        same(ended.getResult(), odd);
        same(ended.getFinishedAt() != null, true);
        same(ended.getNotBefore(), null);
        var artifacts = new ArtifactsApi(composing);
        same(artifacts.listArtifacts(submitted.getId()).getItems().get(0).getName(), NAME);
        File download = artifacts.getArtifact(submitted.getId(), NAME, null, null, null, null, null, null);
        Files.move(download.toPath(), Path.of(given[2]));

        try {
            jobs.getJob(UUID.randomUUID(), null);
        } catch (worker.ApiException exc) {
            JsonNode refused = exact.readTree(exc.getResponseBody());
            System.out.println(exact.writeValueAsString(
                Map.of("job", submitted.getId(), "refused", refused.get("reason").asText())));
        }
    }
}
