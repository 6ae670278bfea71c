package clients

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// awsPrograms finds the aws-cli of the distribution and another one on $PATH.
// They differ: since January 2025 a checksum goes with every upload.
func awsPrograms(t *testing.T) []string {
	t.Helper()
	var found []string
	seen := map[string]bool{}
	for _, name := range []string{"/usr/bin/aws", "aws"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		found = append(found, path)
	}
	return found
}

func TestAWSCLI(t *testing.T) {
	t.Parallel()
	if endpoints.reason != nil {
		t.Skip(endpoints.reason)
	}
	programs := awsPrograms(t)
	if len(programs) == 0 {
		missing(t, "aws is neither in /usr/bin nor in $PATH")
	}
	for i, path := range programs {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			everyTarget(t, func(*testing.T) string { return path }, testAWSCLI)
		})
	}
}

func testAWSCLI(p *program) {
	// Version 1 of the program presigns by version 2 of the signature unless
	// it is told or the region is one of Amazon's that knows no other.
	p.write(".aws/config", []byte("[default]\ns3 =\n    signature_version = s3v4\n    multipart_threshold = 6MB\n    multipart_chunksize = 5MB\n"))
	p.env = append(p.env, "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1")
	p.version("--version")
	p.args = []string{"--endpoint-url", p.target.Endpoint, "--output", "json"}
	awsFiles(p)
	awsCalls(p)
	p.run("s3", "rb", "--force", "s3://"+p.bucket)
	p.wantIn(p.fails("s3", "ls", "s3://"+p.bucket), "NoSuchBucket")
}

// awsFiles uses the commands of "aws s3".
func awsFiles(p *program) {
	p.run("s3", "mb", "s3://"+p.bucket)
	p.wantIn(p.run("s3", "ls"), p.bucket)
	src := p.tree("src")
	for _, name := range []string{"empty", "small.txt", "big.bin"} {
		p.run("s3", "cp", filepath.Join(src, name), "s3://"+p.bucket+"/cp/"+name)
		back := filepath.Join(p.home, "back-"+name)
		p.run("s3", "cp", "s3://"+p.bucket+"/cp/"+name, back)
		p.sameFile(back, noise(len(mustRead(p, filepath.Join(src, name))), name))
	}
	data := noise(7*mib, "stream")
	p.feed(data, "s3", "cp", "-", "s3://"+p.bucket+"/stream")
	if got := p.run("s3", "cp", "s3://"+p.bucket+"/stream", "-"); got != string(data) {
		p.t.Errorf("stream: %d bytes came back of %d, or others", len(got), len(data))
	}
	p.run("s3", "sync", src, "s3://"+p.bucket+"/tree")
	p.wantIn(p.run("s3", "ls", "--recursive", "s3://"+p.bucket+"/tree/"), "tree/sub/dir/deep.bin", "tree/sub/é 日本+%.txt")
	p.wantIn(p.run("s3", "ls", "s3://"+p.bucket+"/tree/"), "PRE sub/", "big.bin")
	if again := p.run("s3", "sync", src, "s3://"+p.bucket+"/tree"); again != "" {
		p.t.Errorf("a second sync uploads again:\n%s", again)
	}
	p.run("s3", "sync", "s3://"+p.bucket+"/tree", filepath.Join(p.home, "dst"))
	p.sameTree(src, filepath.Join(p.home, "dst"))
	p.run("s3", "cp", "s3://"+p.bucket+"/tree/big.bin", "s3://"+p.bucket+"/copied.bin") // UploadPartCopy
	p.run("s3", "mv", "s3://"+p.bucket+"/copied.bin", "s3://"+p.bucket+"/moved.bin")
	p.run("s3", "cp", "s3://"+p.bucket+"/moved.bin", filepath.Join(p.home, "moved.bin"))
	p.sameFile(filepath.Join(p.home, "moved.bin"), mustRead(p, filepath.Join(src, "big.bin")))
	url := p.run("s3", "presign", "s3://"+p.bucket+"/tree/small.txt", "--expires-in", "60")
	if got := p.fetch(url); string(got) != string(noise(3000, "small.txt")) {
		p.t.Errorf("presigned: %d bytes", len(got))
	}
	p.run("s3", "rm", "s3://"+p.bucket+"/stream")
	p.run("s3", "rm", "--recursive", "s3://"+p.bucket+"/tree")
}

// awsCalls uses single calls by "aws s3api".
func awsCalls(p *program) {
	api := func(call string, args ...string) map[string]any {
		p.t.Helper()
		text := p.run(append([]string{"s3api", call, "--bucket", p.bucket}, args...)...)
		out := map[string]any{}
		if text != "" {
			if err := json.Unmarshal([]byte(text), &out); err != nil {
				p.t.Fatalf("%s: %v\n%s", call, err, text)
			}
		}
		return out
	}
	file := p.write("body", noise(20000, "body"))
	for _, algorithm := range []string{"CRC32", "SHA1", "SHA256"} {
		put := api("put-object", "--key", "sum", "--body", file, "--checksum-algorithm", algorithm, "--metadata", "color=blue")
		head := api("head-object", "--key", "sum", "--checksum-mode", "ENABLED")
		if name := "Checksum" + algorithm; put[name] == nil || put[name] != head[name] {
			p.t.Errorf("%s: put %v, head %v", name, put[name], head[name])
		}
	}
	attributes := api("get-object-attributes", "--key", "sum", "--object-attributes", "ETag", "Checksum", "ObjectSize")
	if attributes["ObjectSize"] != float64(20000) {
		p.t.Errorf("attributes %v", attributes)
	}
	got := filepath.Join(p.home, "ranged")
	api("get-object", "--key", "sum", "--range", "bytes=100-199", got)
	p.sameFile(got, noise(20000, "body")[100:200])
	if keys := api("list-objects-v2", "--max-items", "1"); len(keys["Contents"].([]any)) != 1 {
		p.t.Errorf("list-objects-v2: %v", keys)
	}
	api("list-objects")
	api("list-object-versions")
	if location := api("get-bucket-location"); location["LocationConstraint"] != p.target.Region {
		p.t.Errorf("location %v", location)
	}
	api("get-bucket-versioning")
	api("get-bucket-acl")
	api("head-bucket")
	if tags := api("get-object-tagging", "--key", "sum"); len(tags["TagSet"].([]any)) != 0 {
		p.t.Errorf("tags %v", tags)
	}
	p.wantIn(p.fails("s3api", "get-bucket-policy", "--bucket", p.bucket), "NoSuchBucketPolicy")
	p.wantIn(p.fails("s3api", "put-bucket-versioning", "--bucket", p.bucket, "--versioning-configuration", "Status=Enabled"), "NotImplemented")
	upload := api("create-multipart-upload", "--key", "parts")["UploadId"].(string)
	part := api("upload-part", "--key", "parts", "--upload-id", upload, "--part-number", "1", "--body", file)
	if parts := api("list-parts", "--key", "parts", "--upload-id", upload); len(parts["Parts"].([]any)) != 1 {
		p.t.Errorf("parts %v", parts)
	}
	if uploads := api("list-multipart-uploads"); len(uploads["Uploads"].([]any)) != 1 {
		p.t.Errorf("uploads %v", uploads)
	}
	list, err := json.Marshal(map[string]any{"Parts": []any{map[string]any{"PartNumber": 1, "ETag": part["ETag"]}}})
	if err != nil {
		p.t.Fatal(err)
	}
	api("complete-multipart-upload", "--key", "parts", "--upload-id", upload, "--multipart-upload", string(list))
	upload = api("create-multipart-upload", "--key", "aborted")["UploadId"].(string)
	api("abort-multipart-upload", "--key", "aborted", "--upload-id", upload)
	removed := api("delete-objects", "--delete", `{"Objects":[{"Key":"parts"},{"Key":"sum"},{"Key":"never-was"}]}`)
	if len(removed["Deleted"].([]any)) != 3 {
		p.t.Errorf("deleted %v", removed)
	}
}

// mustRead reads a file that the test wrote.
func mustRead(p *program, path string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}
