package devcontrol

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Access says who may use the HTTP APIs, and what for. It is part of a tailnet, guarded by its lock, and remembered with it.
type Access struct {
	// TagOwners is the policy file's. Nil: there is no policy file, and every tag may be given by everybody.
	TagOwners map[string][]string
	Clients   []*OAuthClient
	APIKeys   []*APIKey
	Users     []string // of Headscale; the first has ID 1
}

// OAuthClient may ask Tailscale's API for tokens.
type OAuthClient struct {
	ID      string   `json:"id"`
	Secret  string   `json:"secret"`
	Tags    []string `json:"tags"`
	Scopes  []string `json:"scopes"` // such as auth_keys, devices:core, devices:core:read
	Revoked bool     `json:"revoked"`
}

// APIKey opens Headscale's API.
type APIKey struct {
	Key     string    `json:"key"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// An API key is hskey-api-ID-SECRET.
const (
	apiKeyPrefix = "hskey-api-"
	apiKeyID     = 12 // characters
)

// token is what an OAuth client's secret is exchanged for. Tokens are not remembered over a restart: clients ask again.
type token struct {
	client  *OAuthClient
	expires time.Time
}

const tokenLifetime = time.Hour

// has reports whether the client has a scope, or one that contains it.
func (c *OAuthClient) has(scope string) bool {
	return slices.ContainsFunc(c.Scopes, func(own string) bool {
		return own == scope || own == "all" || own+":read" == scope
	})
}

// NewClient makes an OAuth client.
func (t *Tailnet) NewClient(tags, scopes []string) OAuthClient {
	c := &OAuthClient{ID: "k" + rand.Text()[:11] + "CNTRL", Tags: tags, Scopes: scopes}
	c.Secret = "tskey-client-" + c.ID + "-" + rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.Clients = append(t.access.Clients, c)
	t.dirty = true
	return *c
}

// RevokeClient makes a client and its tokens useless.
func (t *Tailnet) RevokeClient(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.access.Clients {
		if c.ID == id {
			c.Revoked, t.dirty = true, true
			return nil
		}
	}
	return fmt.Errorf("client %q: %w", id, ErrNotFound)
}

// NewAPIKey makes a key of Headscale's API.
func (t *Tailnet) NewAPIKey(expiry time.Duration) APIKey {
	now := time.Now()
	k := &APIKey{Key: apiKeyPrefix + rand.Text()[:apiKeyID] + "-" + rand.Text(), Created: now, Expires: now.Add(expiry)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.APIKeys = append(t.access.APIKeys, k)
	t.dirty = true
	return *k
}

// NewUser makes a user of Headscale, and returns its ID.
func (t *Tailnet) NewUser(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.Users = append(t.access.Users, name)
	t.dirty = true
	return len(t.access.Users)
}

// SetTagOwners replaces that part of the policy file; nil: there is none.
func (t *Tailnet) SetTagOwners(owners map[string][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.TagOwners = owners
	t.dirty = true
}

// login exchanges a client's secret for a token. ok is false for a secret that is unknown or revoked.
func (t *Tailnet) login(secret string) (text string, client OAuthClient, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.access.Clients {
		if c.Secret == secret && !c.Revoked {
			text = "tskey-api-" + rand.Text()[:12] + "CNTRL-" + rand.Text()
			t.tokens[text] = token{c, time.Now().Add(tokenLifetime)}
			return text, *c, true
		}
	}
	return "", OAuthClient{}, false
}

// bearer returns the client of a token.
func (t *Tailnet) bearer(text string) (OAuthClient, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tok, ok := t.tokens[text]
	if !ok || tok.client.Revoked || time.Now().After(tok.expires) {
		return OAuthClient{}, false
	}
	return *tok.client, true
}

// opens reports whether a key opens Headscale's API.
func (t *Tailnet) opens(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.access.APIKeys, func(k *APIKey) bool { return k.Key == key && time.Now().Before(k.Expires) })
}

// mayGive reports whether a client may give these tags to a device: exactly its own, or ones that its own tags own. All must be
// in the policy file.
func (t *Tailnet) mayGive(c OAuthClient, tags []string) bool {
	if len(tags) == 0 || !t.inPolicy(tags) {
		return false
	}
	if sameTags(c.Tags, tags) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.access.TagOwners == nil || !slices.ContainsFunc(tags, func(tag string) bool {
		return !slices.ContainsFunc(t.access.TagOwners[tag], func(owner string) bool { return slices.Contains(c.Tags, owner) })
	})
}

// inPolicy reports whether the policy file knows the tags.
func (t *Tailnet) inPolicy(tags []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.access.TagOwners == nil || !slices.ContainsFunc(tags, func(tag string) bool {
		_, ok := t.access.TagOwners[tag]
		return !ok
	})
}

// hasUser reports whether Headscale has a user of that number.
func (t *Tailnet) hasUser(id int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return id >= 1 && id <= len(t.access.Users)
}

func sameTags(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// quoteTags returns tags as an error of Tailscale's API shows them.
func quoteTags(tags []string) string { return "[" + strings.Join(tags, " ") + "]" }
