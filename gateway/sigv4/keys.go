package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"strings"
	"sync"
)

// DeriveKey returns the signing key of a secret for one day (YYYYMMDD, UTC)
// and region, for the service s3.
func DeriveKey(secret, date, region string) [32]byte {
	k := hmacString([]byte("AWS4"+secret), date)
	k = hmacString(k[:], region)
	k = hmacString(k[:], service)
	return hmacString(k[:], terminator)
}

func hmacString(key []byte, msg string) (sum [32]byte) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(msg))
	h.Sum(sum[:0])
	return sum
}

// keyCache keeps derived signing keys: deriving costs more than all the rest
// of a verification. It holds at most two generations of max keys; when the
// young one is full, the old one is dropped.
type keyCache struct {
	max int

	mu         sync.RWMutex // guards young and old: no key is in both
	young, old map[keyID]derived
}

type keyID struct{ accessKey, date, region string }

// derived remembers the secret, so that a key which was deleted and made again
// with another secret does not verify with the old one.
type derived struct {
	secret string
	key    [32]byte
}

func newKeyCache(limit int) *keyCache {
	return &keyCache{max: limit, young: make(map[keyID]derived), old: make(map[keyID]derived)}
}

// get returns the signing key, from the cache when it is there.
func (c *keyCache) get(id keyID, secret string) [32]byte {
	c.mu.RLock()
	d, ok := c.young[id]
	c.mu.RUnlock()
	if ok && sameString(d.secret, secret) {
		return d.key
	}
	id = keyID{strings.Clone(id.accessKey), strings.Clone(id.date), strings.Clone(id.region)}
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok = c.old[id]
	delete(c.old, id)
	if !ok || !sameString(d.secret, secret) {
		d = derived{secret: secret, key: DeriveKey(secret, id.date, id.region)}
	}
	if len(c.young) >= c.max {
		c.old, c.young = c.young, make(map[keyID]derived)
		delete(c.old, id)
	}
	c.young[id] = d
	return d.key
}

func sameString(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
