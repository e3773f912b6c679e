// An HTTP/3 client on quic-go: does the requests that JSON on standard input asks for, over one connection, and prints
// what came back as JSON.
//
//	quic-go CA.pem <<< '[{"method": "POST", "url": "https://127.0.0.1:4433/echo", "size": 1048576}]'
//
// One request: method, url, header (name to value), size (that many bytes of a pattern are sent, without a declared
// length when "chunked" is true). One answer: status, protocol, header (names in lower case), trailer, length and sha256
// of the body, or error.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/quic-go/quic-go/http3"
)

type asked struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Header  map[string]string `json:"header"`
	Size    int               `json:"size"`
	Chunked bool              `json:"chunked"`
}

type answer struct {
	Status   int               `json:"status"`
	Protocol string            `json:"protocol"`
	Header   map[string]string `json:"header"`
	Trailer  map[string]string `json:"trailer"`
	Length   int64             `json:"length"`
	SHA256   string            `json:"sha256"`
	Text     string            `json:"text"`
	Error    string            `json:"error"`
}

// Bodies up to this size are shown in full.
const shown = 4096

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: quic-go CA.pem"))
	}
	pem, err := os.ReadFile(os.Args[1])
	fail(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		fail(fmt.Errorf("%s has no certificate", os.Args[1]))
	}
	var requests []asked
	fail(json.NewDecoder(os.Stdin).Decode(&requests))

	transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	answers := make([]answer, 0, len(requests))
	for _, one := range requests {
		answers = append(answers, do(transport, one))
	}
	fail(transport.Close())
	fail(json.NewEncoder(os.Stdout).Encode(answers))
}

func do(transport *http3.Transport, one asked) answer {
	limit, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var body io.Reader
	if one.Size > 0 {
		body = bytes.NewReader(pattern(one.Size))
		if one.Chunked {
			// A reader whose length net/http cannot know: no content-length.
			body = struct{ io.Reader }{body}
		}
	}
	request, err := http.NewRequestWithContext(limit, one.Method, one.URL, body)
	if err != nil {
		return answer{Error: err.Error()}
	}
	for name, value := range one.Header {
		request.Header.Set(name, value)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer response.Body.Close()
	hash := sha256.New()
	var text bytes.Buffer
	length, err := io.Copy(io.MultiWriter(hash, &text), response.Body)
	out := answer{
		Status:   response.StatusCode,
		Protocol: response.Proto,
		Header:   flat(response.Header),
		Trailer:  flat(response.Trailer),
		Length:   length,
		SHA256:   hex.EncodeToString(hash.Sum(nil)),
	}
	if length <= shown {
		out.Text = text.String()
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

func pattern(size int) []byte {
	data := make([]byte, size)
	for index := range data {
		data[index] = byte(index % 251)
	}
	return data
}

func flat(fields http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range fields {
		out[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return out
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "quic-go:", err)
		os.Exit(1)
	}
}
