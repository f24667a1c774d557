package devcontrol

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

// headscaleAPI is the part of Headscale's HTTP API that tailscale-cni uses, as 0.29.2 answers: grpc-gateway's camelCase, 64-bit numbers as
// strings, {"code": …, "message": …} for errors. A key may have tags that are not in the policy, but a node cannot get such tags later.
//
//	GET    /health
//	POST   /api/v1/preauthkey               {user, reusable, ephemeral, expiration, aclTags}
//	GET    /api/v1/apikey
//	GET    /api/v1/user
//	GET    /api/v1/node
//	GET    /api/v1/node/{id}
//	DELETE /api/v1/node/{id}
//	POST   /api/v1/node/{id}/rename/{name}
//	POST   /api/v1/node/{id}/tags           {tags}
func headscaleAPI(t *Tailnet) http.Handler {
	h := headscale{t}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "pass"})
	})
	api := http.NewServeMux()
	api.HandleFunc("POST /api/v1/preauthkey", h.createKey)
	api.HandleFunc("GET /api/v1/apikey", h.listAPIKeys)
	api.HandleFunc("GET /api/v1/user", h.listUsers)
	api.HandleFunc("GET /api/v1/node", h.listNodes)
	api.HandleFunc("GET /api/v1/node/{id}", h.onNode(h.showNode))
	api.HandleFunc("DELETE /api/v1/node/{id}", h.onNode(h.deleteNode))
	api.HandleFunc("POST /api/v1/node/{id}/rename/{name}", h.onNode(h.renameNode))
	api.HandleFunc("POST /api/v1/node/{id}/tags", h.onNode(h.tagNode))
	api.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, http.StatusNotFound, codeNotFound, "Not Found")
	})
	mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, r *http.Request) {
		key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || !t.opens(key) {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		api.ServeHTTP(w, r)
	})
	return mux
}

type headscale struct{ t *Tailnet }

// The codes of gRPC that grpc-gateway converts to HTTP statuses.
const (
	codeUnknown  = 2
	codeInvalid  = 3
	codeNotFound = 5
)

func (headscale) fail(w http.ResponseWriter, status, code int, message string) {
	writeJSON(w, status, map[string]any{"code": code, "message": message, "details": []any{}})
}

// number is a uint64 in protobuf's JSON: a number, or a string of digits.
type number uint64

func (n *number) UnmarshalJSON(text []byte) error {
	value, err := strconv.ParseUint(strings.Trim(string(text), `"`), 10, 64)
	if err != nil {
		return fmt.Errorf("invalid value for uint64 field user: %s", text)
	}
	*n = number(value)
	return nil
}

func (h headscale) createKey(w http.ResponseWriter, r *http.Request) {
	var req struct {
		User       *number   `json:"user"`
		Reusable   bool      `json:"reusable"`
		Ephemeral  bool      `json:"ephemeral"`
		Expiration time.Time `json:"expiration"` // zero: the key has expired from the start, and the answer is 200
		ACLTags    []string  `json:"aclTags"`
	}
	if err := readJSON(r, &req); err != nil {
		h.fail(w, http.StatusBadRequest, codeInvalid, err.Error())
		return
	}
	if err := headscaleTags(req.ACLTags); err != nil {
		h.fail(w, http.StatusBadRequest, codeInvalid, err.Error())
		return
	}
	if req.User == nil && len(req.ACLTags) == 0 || req.User != nil && !h.t.hasUser(int(*req.User)) {
		h.fail(w, http.StatusInternalServerError, codeUnknown, "user not found")
		return
	}
	key := AuthKey{Reusable: req.Reusable, Ephemeral: req.Ephemeral, Tags: req.ACLTags}
	k := h.t.MintKey(key, time.Until(req.Expiration))
	shown := h.key(k)
	shown["key"] = k.Secret
	writeJSON(w, http.StatusOK, map[string]any{"preAuthKey": shown})
}

// key returns a pre-auth key as lists and nodes show it: masked.
func (headscale) key(k AuthKey) map[string]any {
	return map[string]any{
		"id": k.ID, "key": k.ID + "-***", "reusable": k.Reusable, "ephemeral": k.Ephemeral, "used": k.Used,
		"expiration": k.Expires.UTC().Format(time.RFC3339Nano), "aclTags": k.Tags,
	}
}

// headscaleTags makes the checks of Headscale itself (hscontrol/grpcv1.go, validateTag).
func headscaleTags(tags []string) error {
	for _, tag := range tags {
		switch {
		case !strings.HasPrefix(tag, "tag:"):
			return fmt.Errorf("tag must start with the string 'tag:'")
		case strings.ToLower(tag) != tag:
			return fmt.Errorf("tag should be lowercase")
		case len(strings.Fields(tag)) > 1:
			return fmt.Errorf("tag should not contain spaces")
		}
	}
	return nil
}

// listAPIKeys returns all keys, masked, including expired ones (hscontrol/types/api_key.go, Proto).
func (h headscale) listAPIKeys(w http.ResponseWriter, _ *http.Request) {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	keys := []map[string]any{}
	for i, k := range h.t.access.APIKeys {
		keys = append(keys, map[string]any{
			"id": strconv.Itoa(i + 1), "prefix": k.Key[:len(apiKeyPrefix)+apiKeyID] + "-***", "lastSeen": nil,
			"expiration": k.Expires.UTC().Format(time.RFC3339Nano), "createdAt": k.Created.UTC().Format(time.RFC3339Nano),
		})
	}
	writeJSON(w, http.StatusOK, map[string]any{"apiKeys": keys})
}

func (h headscale) listUsers(w http.ResponseWriter, _ *http.Request) {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	users := []map[string]string{}
	for i, name := range h.t.access.Users {
		users = append(users, map[string]string{"id": strconv.Itoa(i + 1), "name": name})
	}
	writeJSON(w, http.StatusOK, map[string]any{"users": users})
}

func (h headscale) node(n Node) map[string]any {
	addresses := []string{}
	for _, a := range n.Addresses {
		addresses = append(addresses, a.String())
	}
	shown := map[string]any{
		"id": strconv.FormatInt(int64(n.ID), 10), "name": n.Hostname, "givenName": n.Name, "ipAddresses": addresses,
		"machineKey": n.Machine.String(), "nodeKey": n.Key.String(), "lastSeen": n.LastSeen.UTC().Format(time.RFC3339Nano),
		"expiry": nil, "online": n.Online(), "tags": n.Tags, "user": map[string]string{"id": "2147455555", "name": "tagged-devices"},
		"preAuthKey": h.key(AuthKey{ID: "0", Ephemeral: n.Ephemeral, Used: true, Tags: n.Tags}),
	}
	if !n.KeyExpiry.IsZero() {
		shown["expiry"] = n.KeyExpiry.UTC().Format(time.RFC3339Nano)
	}
	return shown
}

func (h headscale) listNodes(w http.ResponseWriter, _ *http.Request) {
	nodes := []map[string]any{}
	for _, n := range h.t.Nodes() {
		nodes = append(nodes, h.node(n))
	}
	writeJSON(w, http.StatusOK, map[string]any{"nodes": nodes})
}

// onNode calls a function with the node in the path.
func (h headscale) onNode(do func(http.ResponseWriter, *http.Request, Node)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
		if err != nil {
			h.fail(w, http.StatusBadRequest, codeInvalid, "type mismatch, parameter: node_id, error: "+err.Error())
			return
		}
		nodes := h.t.Nodes()
		i := slices.IndexFunc(nodes, func(n Node) bool { return n.ID == tailcfg.NodeID(id) })
		if i < 0 {
			h.fail(w, http.StatusNotFound, codeNotFound, "node not found")
			return
		}
		do(w, r, nodes[i])
	}
}

func (h headscale) showNode(w http.ResponseWriter, _ *http.Request, n Node) {
	writeJSON(w, http.StatusOK, map[string]any{"node": h.node(n)})
}

func (h headscale) deleteNode(w http.ResponseWriter, _ *http.Request, n Node) {
	h.changed(w, n.ID, h.t.Delete(n.ID))
}

// renameNode gives the node the requested name, or fails if the name is taken: Headscale adds no number.
func (h headscale) renameNode(w http.ResponseWriter, r *http.Request, n Node) {
	name := r.PathValue("name")
	if slices.ContainsFunc(h.t.Nodes(), func(other Node) bool { return other.ID != n.ID && other.Name == name }) {
		h.fail(w, http.StatusInternalServerError, codeUnknown, "renaming node: name is not unique: "+name)
		return
	}
	h.changed(w, n.ID, h.t.Rename(n.ID, name))
}

func (h headscale) tagNode(w http.ResponseWriter, r *http.Request, n Node) {
	var req struct {
		Tags []string `json:"tags"`
	}
	err := readJSON(r, &req)
	if err == nil {
		err = headscaleTags(req.Tags)
	}
	if err == nil && !h.t.inPolicy(req.Tags) {
		err = fmt.Errorf("requested tags %q are invalid or not permitted", req.Tags)
	}
	if err != nil {
		h.fail(w, http.StatusBadRequest, codeInvalid, err.Error())
		return
	}
	h.changed(w, n.ID, h.t.Update(n.ID, func(n *Node) { n.Tags = req.Tags }))
}

// changed ends a request with the current node, or with an empty object if the node no longer exists.
func (h headscale) changed(w http.ResponseWriter, id tailcfg.NodeID, err error) {
	if err != nil {
		h.fail(w, http.StatusNotFound, codeNotFound, "node not found")
		return
	}
	for _, n := range h.t.Nodes() {
		if n.ID == id {
			h.showNode(w, nil, n)
			return
		}
	}
	writeJSON(w, http.StatusOK, struct{}{})
}
