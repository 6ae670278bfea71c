package clients

import (
	"os/exec"
	"testing"
)

// botoScript is a program for boto3. It ends with an error at the first thing
// that is not as it should be.
const botoScript = `
import hashlib, io, os, ssl, sys, urllib.request
import boto3, botocore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

print("boto3", boto3.__version__, "botocore", botocore.__version__)
endpoint, bucket, region = sys.argv[1:4]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=Config(signature_version="s3v4", retries={"max_attempts": 1, "mode": "standard"}))

def digest(b): return hashlib.sha256(b).hexdigest()
def code(call, **args):
    try:
        call(**args)
    except ClientError as e:
        return e.response["Error"]["Code"]
    return "no error"
def check(got, want, what):
    if got != want:
        sys.exit("%s: %r, want %r" % (what, got, want))

s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
check(bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]], True, "list_buckets")

for size in (0, 1, 20000, 3 << 20):
    data = os.urandom(size)
    s3.put_object(Bucket=bucket, Key="put/%d" % size, Body=data, Metadata={"color": "blue"})
    back = s3.get_object(Bucket=bucket, Key="put/%d" % size)
    check(digest(back["Body"].read()), digest(data), "put_object of %d" % size)
    check(back["Metadata"], {"color": "blue"}, "metadata")

for algorithm in ("CRC32", "SHA1", "SHA256"):
    out = s3.put_object(Bucket=bucket, Key="sum/" + algorithm, Body=data, ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="sum/" + algorithm, ChecksumMode="ENABLED")
    check(head["Checksum" + algorithm], out["Checksum" + algorithm], algorithm)

class Stream(io.RawIOBase):
    def __init__(self, data): self.inner = io.BytesIO(data)
    def readable(self): return True
    def read(self, n=-1): return self.inner.read(n)

config = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20, max_concurrency=3)
big = os.urandom((11 << 20) + 3)
s3.upload_fileobj(io.BytesIO(big), bucket, "big", Config=config)
s3.upload_fileobj(Stream(big), bucket, "stream", Config=config)
for key in ("big", "stream"):
    back = io.BytesIO()
    s3.download_fileobj(bucket, key, back, Config=config)
    check(digest(back.getvalue()), digest(big), key)
s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
check(s3.head_object(Bucket=bucket, Key="copy")["ContentLength"], len(big), "copy")
check(s3.get_object(Bucket=bucket, Key="copy", Range="bytes=5242870-5242889")["Body"].read(), big[5242870:5242890], "range of the copy")

check(code(s3.put_object, Bucket=bucket, Key="big", Body=b"", IfNoneMatch="*"), "PreconditionFailed", "IfNoneMatch")
check(code(s3.get_object, Bucket=bucket, Key="missing"), "NoSuchKey", "missing key")
check(code(s3.head_object, Bucket=bucket, Key="missing"), "404", "HEAD of a missing key")
check(code(s3.get_object, Bucket=bucket + "x", Key="missing"), "NoSuchBucket", "missing bucket")
check(code(s3.get_bucket_lifecycle_configuration, Bucket=bucket), "NoSuchLifecycleConfiguration", "lifecycle")

url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "put/20000"}, ExpiresIn=60)
ca = os.environ.get("AWS_CA_BUNDLE")
context = ssl.create_default_context(cafile=ca) if ca else None
check(len(urllib.request.urlopen(url, context=context).read()), 20000, "presigned GET")

keys = []
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}):
    keys += [o["Key"] for o in page.get("Contents", [])]
check(len(keys), 10, "keys")
out = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in keys]})
check((len(out["Deleted"]), out.get("Errors", [])), (10, []), "delete_objects")
s3.delete_bucket(Bucket=bucket)
print("done")
`

// python finds an interpreter that has boto3.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err == nil && exec.CommandContext(t.Context(), path, "-c", "import boto3").Run() == nil {
			return path
		}
	}
	// Debian's aws-cli brings no boto3 with it: it is tried where it is, and
	// its absence is no failure, not even with RUCHE_REQUIRE.
	t.Skip("no python3 with boto3")
	return ""
}

func TestBoto3(t *testing.T) {
	t.Parallel()
	everyTarget(t, python, func(p *program) {
		out := p.run("-c", botoScript, p.target.Endpoint, p.bucket, p.target.Region)
		p.t.Log(out)
		p.wantIn(out, "done")
	})
}
