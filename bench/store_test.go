package main

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// store is a small S3 server in memory, enough for the load generator.
type store struct {
	mu      sync.Mutex
	objects map[string][]byte
	parts   map[string]map[int][]byte // of uploads
	uploads int

	damage string // GET and HEAD of keys that contain this answer wrong bytes
	refuse string // calls of this method answer 503
}

func newStore() *store {
	return &store{objects: make(map[string][]byte), parts: make(map[string]map[int][]byte)}
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=key/") {
		refuse(w, http.StatusForbidden, "AccessDenied")
		return
	}
	if r.Method == s.refuse && strings.Count(r.URL.Path, "/") > 1 {
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	}
	body, err := decode(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "IncompleteBody")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bucket, key, _ := strings.Cut(r.URL.Path[1:], "/")
	switch q := r.URL.Query(); {
	case key == "" && r.Method == http.MethodGet:
		s.list(w, bucket, q.Get("prefix"), q.Get("continuation-token"), q.Get("max-keys"))
	case key == "" && r.Method == http.MethodDelete && s.holds(bucket):
		refuse(w, http.StatusConflict, "BucketNotEmpty")
	case key == "":
	case q.Has("uploads"):
		s.uploads++
		id := fmt.Sprintf("id+/%d=", s.uploads) // has to be escaped
		s.parts[id] = make(map[int][]byte)
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case q.Has("uploadId"):
		s.upload(w, r, q.Get("uploadId"), q.Get("partNumber"), body)
	default:
		s.object(w, r, body)
	}
}

func (s *store) object(w http.ResponseWriter, r *http.Request, body []byte) {
	key := r.URL.Path
	switch r.Method {
	case http.MethodPut:
		s.objects[key] = body
		w.Header().Set("ETag", etag(body))
	case http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		data, found := s.objects[key]
		if !found {
			refuse(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		if s.damage != "" && strings.Contains(key, s.damage) {
			data = append([]byte{data[0] + 1}, data[1:]...)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	}
}

func (s *store) upload(w http.ResponseWriter, r *http.Request, id, part string, body []byte) {
	parts, found := s.parts[id]
	if !found {
		refuse(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	if r.Method == http.MethodPut {
		n, err := strconv.Atoi(part)
		if err != nil {
			refuse(w, http.StatusBadRequest, "InvalidArgument")
			return
		}
		parts[n] = body
		w.Header().Set("ETag", etag(body))
		return
	}
	var whole []byte
	for _, n := range slices.Sorted(maps.Keys(parts)) {
		if !bytes.Contains(body, fmt.Appendf(nil, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", n, etag(parts[n]))) {
			fmt.Fprint(w, "<Error><Code>InvalidPart</Code></Error>") // after a 200, as S3 may
			return
		}
		whole = append(whole, parts[n]...)
	}
	s.objects[r.URL.Path] = whole
	delete(s.parts, id)
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><ETag>%s</ETag></CompleteMultipartUploadResult>", etag(whole))
}

// list answers with pages in the order of keys; the token is the last key.
func (s *store) list(w http.ResponseWriter, bucket, prefix, after, most string) {
	limit, err := strconv.Atoi(most)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidArgument")
		return
	}
	fmt.Fprint(w, "<ListBucketResult>")
	n := 0
	for _, path := range slices.Sorted(maps.Keys(s.objects)) {
		key, found := strings.CutPrefix(path, "/"+bucket+"/")
		if !found || !strings.HasPrefix(key, prefix) || key <= after {
			continue
		}
		if n == limit {
			fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", after)
			break
		}
		fmt.Fprintf(w, "<Contents><Key>%s</Key></Contents>", key)
		after = key
		n++
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

// holds reports whether a bucket has objects.
func (s *store) holds(bucket string) bool {
	for path := range s.objects {
		if strings.HasPrefix(path, "/"+bucket+"/") {
			return true
		}
	}
	return false
}

// decode returns a body out of its chunks.
func decode(r *http.Request) ([]byte, error) {
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return io.ReadAll(r.Body)
	}
	in := bufio.NewReader(r.Body)
	var out []byte
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(size, 16, 32)
		if err != nil {
			return nil, err
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(in, data); err != nil || n == 0 {
			return out, err
		}
		out = append(out, data[:n]...)
	}
}

func etag(body []byte) string {
	sum := md5.Sum(body)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>of the test</Message></Error>", code)
}
