LOG = open("/tmp/h/log", "w")
def P(*a):
    print(*a, file=LOG, flush=True)

def test_x(call, world, tmp_path):
    import time
    t=time.time()
    r = call("run", world, "--out", tmp_path/"run", "--json")
    P(r.out[:3000], r.err, time.time()-t)
    import subprocess
    P(subprocess.run(["find", tmp_path/"run", tmp_path/"cache"], capture_output=True, text=True).stdout)
    for extra in ([], ["--json"]):
        r = call("caption", "--run", tmp_path/"run", "--explain", tmp_path/"world/images/018.png", *extra); P(r.out, r.err)
    for s in ("decoder.retrieval={type: softmax, source: bridged}", "decoder.retrieval=frequency", "decoder.vocabulary.names=[red,green,blue,zebra,lion]", "decoder.layout=soft_only"):
        r = call("run", world, "--out", tmp_path/"run", "--json", "--set", s); P(s, r.code, r.err)
    r = call("run", world, "--out", tmp_path/"run", "--json", "--set", s, "--set", "decoder.vocabulary.names=[red,green,blue,zebra,lion]"); P(s, r.code, r.err)
    assert 0
