// A composerd worker with Go's net/http: go run go_worker.go SERVER TYPE FILE
//
// For each job of the type it prints the server's answer, uploads the file, and reports the field "text" of the args.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"
)

var (
	// The server may be below a path, as in https://host/path. A location has that path already.
	given, _      = url.Parse(os.Args[1])
	server, below = given.Scheme + "://" + given.Host, strings.TrimSuffix(given.Path, "/")
	kind, file    = os.Args[2], os.Args[3]

	arch   = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	client = &http.Client{
		Transport:     &http.Transport{ResponseHeaderTimeout: 40 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
)

// Job is the answer to a request for a job. Args are passed on as they are: a float64 cannot hold every number.
type Job struct {
	Location         string          `json:"location"`
	ArtifactLocation string          `json:"artifact_location"`
	Args             json.RawMessage `json:"args"`
}

type object map[string]any

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// ask sends a request, and returns the status and the text of a whole answer.
func ask(method, path string, body io.Reader, size int64, headers map[string]string) (int, []byte, error) {
	request, err := http.NewRequest(method, server+path, body)
	if err != nil {
		return 0, nil, err
	}
	request.ContentLength = size // without it, a file is sent in chunks
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body) // returns an error if the answer was cut
	if err == nil && answer.Header.Get("X-Operation-Id") == "" {
		err = fmt.Errorf("the answer is not from composerd: %s %.200s", answer.Status, text)
	}
	return answer.StatusCode, text, err
}

// send repeats a request until there is a whole answer that is no 5xx, and returns its status and its text.
func send(method, path string, body []byte, headers map[string]string) (int, []byte) {
	for ; ; time.Sleep(time.Second) {
		var data io.Reader = bytes.NewReader(body)
		size := int64(len(body))
		if method == "PUT" {
			// A file is opened for each attempt: what is sent again begins at its first byte.
			opened, err := os.Open(file)
			check(err)
			info, err := opened.Stat()
			check(err)
			data, size = opened, info.Size()
		}
		status, text, err := ask(method, path, data, size, headers)
		if err == nil && status < 500 {
			return status, text
		}
		log.Printf("trying again: %d %.200s %v", status, text, err)
	}
}

// sendJSON sends a value as JSON. What is sent again has the same bytes.
func sendJSON(method, path string, value any) (int, []byte) {
	body, err := json.Marshal(value)
	check(err)
	return send(method, path, body, map[string]string{"Content-Type": "application/json"})
}

// refusal returns what the server said about a request that it did not accept.
func refusal(text []byte) string {
	var answer struct{ ID, Reason string }
	check(json.Unmarshal(text, &answer))
	return fmt.Sprintf("error %s, %s", answer.ID, answer.Reason)
}

// isOurs returns true if the job is still this worker's. Each call is a heartbeat.
func isOurs(job Job) bool {
	status, text := send("GET", job.Location, nil, nil)
	var answer struct{ Canceled bool }
	return status == 200 && json.Unmarshal(text, &answer) == nil && !answer.Canceled
}

func work(job Job) {
	// Confirm the job, and later send heartbeats. A job that takes longer needs one every 20 s, from a goroutine.
	if !isOurs(job) {
		return
	}

	opened, err := os.Open(file)
	check(err)
	hash := sha256.New()
	size, err := io.Copy(hash, opened)
	check(err)
	opened.Close()
	digest := hash.Sum(nil)
	status, text := send("PUT", job.ArtifactLocation+"output", nil, map[string]string{
		"Content-Type":   "application/octet-stream",
		"Content-Digest": "sha-256=:" + base64.StdEncoding.EncodeToString(digest) + ":",
	})
	var report object
	if status == 200 {
		var args struct{ Text string }
		check(json.Unmarshal(job.Args, &args))
		artifacts := []object{{"name": "output", "size": size, "sha256": hex.EncodeToString(digest)}}
		report = object{"result": object{"text": args.Text}, "artifacts": artifacts}
	} else {
		reason := object{"id": 10, "reason": "upload: " + refusal(text), "details": nil}
		report = object{"result": object{"job_error": reason}}
	}

	if !isOurs(job) {
		return
	}
	if status, text := sendJSON("PATCH", job.Location, report); status != 200 {
		log.Print("result refused: ", refusal(text))
	}
}

// uuid returns a random UUID.
func uuid() string {
	b := make([]byte, 16)
	_, err := rand.Read(b)
	check(err)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func main() {
	for {
		// The same id is sent again if there was no answer, so that a job that was on its way is not lost.
		request := object{"types": []string{kind}, "arch": arch, "confirm": true, "request_id": uuid()}
		status, text := sendJSON("POST", below+"/api/worker/v1/jobs?wait=20s", request)
		switch status {
		case 201:
			fmt.Println(string(text))
			var job Job
			check(json.Unmarshal(text, &job))
			work(job)
		case 204, 409: // no job; the id is used up
		default:
			log.Fatal("request refused: ", refusal(text))
		}
	}
}
