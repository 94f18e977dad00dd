// A job from end to end, with the Go clients that openapi-generator has generated.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"generated/composer"
	"generated/worker"
)

const name = "grüße 1.bin"

// The calls have the token of the client's identity in their context. It is a value of its own for each package.
var background = context.WithValue(
	context.WithValue(context.Background(), worker.ContextAccessToken, os.Getenv("TOKEN")),
	composer.ContextAccessToken, os.Getenv("TOKEN"),
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func same(got, wanted any) {
	if got != wanted {
		panic(fmt.Sprintf("%v instead of %v", got, wanted))
	}
}

func take(jobs *worker.JobsAPIService, kind string) *worker.RequestedJob {
	body := worker.NewRequestJob([]string{kind}, "x86_64")
	body.SetConfirm(true)
	job, response, err := jobs.RequestJob(background).RequestJob(*body).Wait("20s").Execute()
	check(err)
	same(response.StatusCode, 201)
	return job
}

func finish(jobs *worker.JobsAPIService, token string, result json.RawMessage) {
	body := worker.FinishJobAsUpdateJob(worker.NewFinishJob(result))
	_, _, err := jobs.UpdateJob(background, token).UpdateJob(body).Execute()
	check(err)
}

func main() {
	url, path, out, odd := os.Args[1], os.Args[2], os.Args[3], json.RawMessage(os.Args[4])
	composing := composer.NewConfiguration()
	composing.Servers = composer.ServerConfigurations{{URL: url + "/api/composer/v1"}}
	submitting := composer.NewAPIClient(composing)
	working := worker.NewConfiguration()
	working.Servers = worker.ServerConfigurations{{URL: url + "/api/worker/v1"}}
	api := worker.NewAPIClient(working)
	jobs := api.JobsAPI

	raw := take(jobs, "raw")
	finish(jobs, raw.GetToken(), raw.Args)

	var compact bytes.Buffer // json.Marshal leaves white space out
	check(json.Compact(&compact, odd))
	body := composer.NewSubmitJob("own")
	body.SetArgs(odd)
	submitted, _, err := submitting.JobsAPI.SubmitJob(background).SubmitJob(*body).Execute()
	check(err)
	job := take(jobs, "own")
	token := job.GetToken()
	same(job.Id, submitted.Id)
	same(string(job.Args), compact.String())
	file, err := os.Open(path)
	check(err)
	_, _, err = api.ArtifactsAPI.UploadJobArtifact(background, token, name).Body(file).Execute()
	check(err)
	progress := worker.ReportProgressAsUpdateJob(worker.NewReportProgress(json.RawMessage(`{"done": 1}`)))
	_, _, err = jobs.UpdateJob(background, token).UpdateJob(progress).Execute()
	check(err)
	status, _, err := jobs.GetJob(background, token).Execute()
	check(err)
	same(status.Canceled, false)
	finish(jobs, token, job.Args)

	ended, _, err := submitting.JobsAPI.GetJob(background, submitted.Id).Wait("20s").Execute()
	check(err)
	same(ended.State, composer.FINISHED)
	same(string(ended.Result), compact.String())
	same(ended.FinishedAt.IsSet() && ended.FinishedAt.Get() != nil, true)
	same(ended.NotBefore.Get() == nil, true)
	download, _, err := submitting.ArtifactsAPI.GetArtifact(background, submitted.Id, name).Execute()
	check(err)
	content, err := io.ReadAll(download)
	check(err)
	check(os.Remove(download.Name()))
	check(os.WriteFile(out, content, 0o600))

	_, _, err = jobs.GetJob(background, "12345678-1234-4123-8123-123456789abc").Execute()
	var refused *worker.GenericOpenAPIError
	if !errors.As(err, &refused) {
		panic(err)
	}
	answer := map[string]string{"job": submitted.Id, "refused": refused.Model().(worker.Error).Reason}
	text, err := json.Marshal(answer)
	check(err)
	_, err = io.Copy(os.Stdout, bytes.NewReader(append(text, '\n')))
	check(err)
}
