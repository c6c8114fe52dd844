// The only file that knows Node: converts arguments once, runs work off the main thread, turns Error into a JS error with its code.
// The types on the other side are in lib/native.ts.
#include <napi.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <thread>

#include "train/library.h"
#include "train/session.h"

namespace lorafuse {
namespace {

// ---- from JavaScript ----

std::string member_name(const std::string& where, const char* name) { return where.empty() ? name : where + "." + name; }

Napi::Value get(const Napi::Object& object, const char* name) { return object.Get(name); }

double number(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsNumber(), "INVALID_ARGUMENT", "Expected a number for ", name);
  return value.As<Napi::Number>().DoubleValue();
}
int64_t integer(const Napi::Value& value, const std::string& name) {
  const double x = number(value, name);
  CHECK(x == static_cast<double>(static_cast<int64_t>(x)), "INVALID_ARGUMENT", "Expected an integer for ", name, " but received ", x);
  return static_cast<int64_t>(x);
}
bool boolean(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsBoolean(), "INVALID_ARGUMENT", "Expected true or false for ", name);
  return value.As<Napi::Boolean>().Value();
}
std::string string(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsString(), "INVALID_ARGUMENT", "Expected a string for ", name);
  return value.As<Napi::String>().Utf8Value();
}
Napi::Object object(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsObject(), "INVALID_ARGUMENT", "Expected an object for ", name);
  return value.As<Napi::Object>();
}
template <class Convert>
auto list(const Napi::Value& value, const std::string& name, Convert convert) {
  CHECK(value.IsArray(), "INVALID_ARGUMENT", "Expected an array for ", name);
  const auto array = value.As<Napi::Array>();
  std::vector<decltype(convert(Napi::Value(), name))> out;
  for (uint32_t i = 0; i < array.Length(); i++) out.push_back(convert(array.Get(i), text(name, "[", i, "]")));
  return out;
}
std::vector<float> floats(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float32_array, "INVALID_ARGUMENT",
        "Expected a Float32Array for ", name);
  const auto array = value.As<Napi::Float32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}
std::vector<int32_t> integers(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array, "INVALID_ARGUMENT",
        "Expected an Int32Array for ", name);
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}
LatentShape latent_shape(const Napi::Value& value, const std::string& name) {
  const auto extents = list(value, name, integer);
  CHECK(extents.size() == 3 && extents[0] > 0 && extents[1] > 0 && extents[2] > 0, "INVALID_ARGUMENT",
        "Expected [count, height, width] for ", name);
  return {extents[0], extents[1], extents[2]};
}

DType dtype(const Napi::Value& value, const std::string& name) {
  const std::string s = string(value, name);
  if (s == "F32") return DType::f32;
  if (s == "F16") return DType::f16;
  CHECK(s == "BF16", "INVALID_ARGUMENT", "Expected F32, F16 or BF16 for ", name, " but received ", s);
  return DType::bf16;
}

WeightFile weight_file(const Napi::Value& value, const std::string& name) {
  const auto file = object(value, name);
  return {string(get(file, "path"), name + ".path"),
          list(get(file, "tensors"), name + ".tensors", [](const Napi::Value& v, const std::string& n) {
            const auto entry = object(v, n);
            return WeightEntry{string(get(entry, "name"), n + ".name"), dtype(get(entry, "dtype"), n + ".dtype"),
                               Shape(list(get(entry, "shape"), n + ".shape", integer)),
                               static_cast<size_t>(integer(get(entry, "offset"), n + ".offset"))};
          })};
}

// Reads members of a config by the name they have in lib/native.ts.
struct Members {
  Napi::Object from;
  std::string where;
  int64_t count(const char* name) const {
    const int64_t x = integer(get(from, name), member_name(where, name));
    CHECK(x > 0, "INVALID_ARGUMENT", "Expected a positive number for ", member_name(where, name), " but received ", x);
    return x;
  }
  double real(const char* name) const { return number(get(from, name), member_name(where, name)); }
  bool flag(const char* name) const { return boolean(get(from, name), member_name(where, name)); }
  template <class Convert>
  auto all(const char* name, Convert convert) const {
    return list(get(from, name), member_name(where, name), convert);
  }
};

AdamW adamw(Napi::Object from) {
  const Members m{from, ""};
  const AdamW options{m.real("learningRate"), m.real("beta1"),       m.real("beta2"),     m.real("epsilon"),
                      m.real("weightDecay"),  m.real("maxGradNorm"), m.real("lossScale"), m.count("step")};
  CHECK(options.loss_scale > 0, "INVALID_ARGUMENT", "Expected a positive number for lossScale but received ", options.loss_scale);
  return options;
}

UNetConfig unet_config(const Members& m) {
  UNetConfig c;
  c.in_channels = m.count("inChannels");
  c.out_channels = m.count("outChannels");
  c.block_out_channels = m.all("blockOutChannels", integer);
  c.down_attention = m.all("downAttention", boolean);
  c.up_attention = m.all("upAttention", boolean);
  c.layers_per_block = static_cast<int>(m.count("layersPerBlock"));
  c.heads = m.all("heads", integer);
  c.cross_attention_dim = m.count("crossAttentionDim");
  c.norm_num_groups = static_cast<int>(m.count("normNumGroups"));
  c.norm_eps = static_cast<float>(m.real("normEps"));
  c.flip_sin_to_cos = m.flag("flipSinToCos");
  c.freq_shift = static_cast<float>(m.real("freqShift"));
  const size_t levels = c.block_out_channels.size();
  CHECK(levels > 0 && c.down_attention.size() == levels && c.up_attention.size() == levels && c.heads.size() == levels, "INVALID_ARGUMENT",
        "Expected one entry per block in unet.config's blockOutChannels, downAttention, upAttention and heads");
  for (int64_t heads : c.heads)
    CHECK(heads > 0, "INVALID_ARGUMENT", "Expected at least one head in unet.config.heads but received ", heads);
  return c;
}

TextEncoderConfig text_encoder_config(const Members& m) {
  TextEncoderConfig c;
  c.hidden_size = m.count("hiddenSize");
  c.intermediate_size = m.count("intermediateSize");
  c.vocab_size = m.count("vocabSize");
  c.max_position_embeddings = m.count("maxPositionEmbeddings");
  c.num_hidden_layers = static_cast<int>(m.count("numHiddenLayers"));
  c.num_attention_heads = static_cast<int>(m.count("numAttentionHeads"));
  c.layer_norm_eps = static_cast<float>(m.real("layerNormEps"));
  c.hidden_act = string(get(m.from, "hiddenAct"), "hiddenAct") == "gelu" ? Function::gelu : Function::quick_gelu;
  return c;
}

VaeConfig vae_config(const Members& m) {
  VaeConfig c;
  c.in_channels = m.count("inChannels");
  c.out_channels = m.count("outChannels");
  c.latent_channels = m.count("latentChannels");
  c.block_out_channels = m.all("blockOutChannels", integer);
  c.layers_per_block = static_cast<int>(m.count("layersPerBlock"));
  c.norm_num_groups = static_cast<int>(m.count("normNumGroups"));
  return c;
}

SessionOptions session_options(const Napi::Value& value) {
  const auto options = object(value, "options");
  SessionOptions o;
  o.threads = static_cast<int>(integer(get(options, "threads"), "threads"));
  CHECK(o.threads >= 1 && o.threads <= 1024, "INVALID_ARGUMENT", "Expected 1 to 1024 threads but received ", o.threads);
  const std::string device = string(get(options, "device"), "device");
  CHECK(device == "cpu" || device == "cuda", "INVALID_ARGUMENT", "Expected cpu or cuda for device but received ", device);
  o.device = device == "cpu" ? Device::cpu : Device::cuda;
  const std::string precision = string(get(options, "precision"), "precision");
  CHECK(precision == "f32" || precision == "fp16" || precision == "bf16", "INVALID_ARGUMENT",
        "Expected f32, fp16 or bf16 for precision but received ", precision);
  o.precision = precision == "f32" ? DType::f32 : precision == "fp16" ? DType::f16 : DType::bf16;
  auto component = [&](const char* name, auto convert, auto& config, std::vector<WeightFile>& files) {
    const auto c = object(get(options, name), name);
    config = convert(Members{object(get(c, "config"), text(name, ".config")), text(name, ".config")});
    files = list(get(c, "files"), text(name, ".files"), weight_file);
  };
  component("unet", unet_config, o.unet, o.unet_files);
  if (!get(options, "textEncoder").IsUndefined()) component("textEncoder", text_encoder_config, o.text_encoder, o.text_encoder_files);
  if (!get(options, "vae").IsUndefined()) component("vae", vae_config, o.vae, o.vae_files);
  return o;
}

AdapterBuffer adapter_buffer(const Napi::Value& value) {
  const std::string name = string(value, "buffer");
  if (name == "weights") return AdapterBuffer::weights;
  if (name == "gradients") return AdapterBuffer::gradients;
  if (name == "firstMoment") return AdapterBuffer::first_moment;
  CHECK(name == "secondMoment", "INVALID_ARGUMENT", "Expected weights, gradients, firstMoment or secondMoment for buffer but received ",
        name);
  return AdapterBuffer::second_moment;
}

// ---- to JavaScript ----

Napi::Value to_js(Napi::Env env, const std::vector<float>& data) {
  auto array = Napi::Float32Array::New(env, data.size());
  std::copy(data.begin(), data.end(), array.Data());
  return array;
}
Napi::Value to_js(Napi::Env env, float x) { return Napi::Number::New(env, x); }
struct Done {};  // the result of what has none
Napi::Value to_js(Napi::Env env, Done) { return env.Undefined(); }

Napi::Error js_error(Napi::Env env, const std::string& code, const std::string& message) {
  auto error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

// Runs f; every C++ error leaves as a JS exception.
template <class F>
auto guarded(Napi::Env env, F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const Error& e) {
    throw js_error(env, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    throw js_error(env, "OUT_OF_MEMORY", "The system has no more memory");
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw js_error(env, "INTERNAL", e.what());
  }
}

// ---- work off the main thread ----

class Job;

// The session and the calls that wait for it. Only the main thread touches the queue; one job at a time is in hand.
struct Shared {
  explicit Shared(SessionOptions options) : session(std::move(options)) {}
  Session session;
  std::deque<Job*> waiting;
  bool running = false, disposed = false;
  void next();
};

class Job : public Napi::AsyncWorker {
 public:
  Job(Napi::Env env, std::shared_ptr<Shared> shared)
      : AsyncWorker(env), shared(std::move(shared)), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void OnOK() override {
    finish([&] { deferred_.Resolve(result(Env())); });
  }
  void OnError(const Napi::Error& error) override {
    finish([&] { fail(code_, error.Message()); });
  }
  void fail(const std::string& code, const std::string& message) { deferred_.Reject(js_error(Env(), code, message).Value()); }

  const std::shared_ptr<Shared> shared;

 protected:
  virtual void work() = 0;
  virtual Napi::Value result(Napi::Env env) = 0;

  void Execute() override {
    try {
      work();
    } catch (const Error& e) {
      code_ = e.code();
      SetError(e.what());
    } catch (const std::bad_alloc&) {
      code_ = "OUT_OF_MEMORY";
      SetError("The system has no more memory");
    } catch (const std::exception& e) {
      code_ = "INTERNAL";
      SetError(e.what());
    }
  }

 private:
  template <class F>
  void finish(F settle) {
    const auto keep = shared;  // this object is deleted after OnOK or OnError returns
    keep->running = false;
    try {
      settle();
      keep->next();
    } catch (const Napi::Error&) {
      // The thread's environment is ending (worker.terminate()): nobody is left to be told.
    }
  }

  Napi::Promise::Deferred deferred_;
  std::string code_ = "INTERNAL";
};

void Shared::next() {
  while (!waiting.empty() && !running) {
    Job* job = waiting.front();
    waiting.pop_front();
    if (disposed) {
      job->fail("DISPOSED", "This session was disposed");
      delete job;
    } else {
      running = true;
      job->Queue();
    }
  }
}

template <class Work>
class JobOf : public Job {
 public:
  using Result = std::invoke_result_t<Work, Session&>;
  JobOf(Napi::Env env, std::shared_ptr<Shared> shared, Work work) : Job(env, std::move(shared)), work_(std::move(work)) {}

 protected:
  void work() override { result_ = work_(shared->session); }
  Napi::Value result(Napi::Env env) override { return to_js(env, result_); }

 private:
  Work work_;
  Result result_{};
};

class JsSession : public Napi::ObjectWrap<JsSession> {
 public:
  explicit JsSession(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    shared_ = guarded(info.Env(), [&] { return std::make_shared<Shared>(session_options(info[0])); });
  }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Session",
        {InstanceMethod<&JsSession::modules>("modules"), InstanceMethod<&JsSession::attach>("attach"),
         InstanceMethod<&JsSession::read_adapters>("readAdapters"), InstanceMethod<&JsSession::write_adapters>("writeAdapters"),
         InstanceMethod<&JsSession::plan>("plan"), InstanceMethod<&JsSession::encode_text>("encodeText"),
         InstanceMethod<&JsSession::encode_images>("encodeImages"), InstanceMethod<&JsSession::decode_latents>("decodeLatents"),
         InstanceMethod<&JsSession::predict>("predict"), InstanceMethod<&JsSession::load>("load"), InstanceMethod<&JsSession::step>("step"),
         InstanceMethod<&JsSession::losses>("losses"), InstanceMethod<&JsSession::norm>("norm"),
         InstanceMethod<&JsSession::dispose>("dispose")});
  }

 private:
  // The session for a call that answers at once: refused while a job is in hand.
  Session& idle() {
    alive();
    CHECK(!shared_->running && shared_->waiting.empty(), "BUSY", "Expected no call in progress on this session: await it first");
    return shared_->session;
  }
  void alive() const { CHECK(shared_, "DISPOSED", "This session was disposed"); }

  template <class Convert>
  Napi::Value start(const Napi::CallbackInfo& info, Convert convert) {
    const Napi::Env env = info.Env();
    auto deferred = [&](const std::string& code, const std::string& message) {
      auto d = Napi::Promise::Deferred::New(env);
      d.Reject(js_error(env, code, message).Value());
      return d.Promise();
    };
    try {
      alive();
      auto work = convert();
      auto* job = new JobOf<decltype(work)>(env, shared_, std::move(work));
      const auto promise = job->promise();
      shared_->waiting.push_back(job);
      shared_->next();
      return promise;
    } catch (const Error& e) {
      return deferred(e.code(), e.what());
    } catch (const std::bad_alloc&) {
      return deferred("OUT_OF_MEMORY", "The system has no more memory");
    }
  }

  Napi::Value modules(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto layers = idle().modules();
      auto out = Napi::Array::New(info.Env(), layers.size());
      for (uint32_t i = 0; i < layers.size(); i++) {
        auto entry = Napi::Object::New(info.Env());
        entry.Set("path", layers[i].path);
        entry.Set("kind", layers[i].is_conv ? "conv" : "linear");
        entry.Set("inFeatures", static_cast<double>(layers[i].in_features));
        entry.Set("outFeatures", static_cast<double>(layers[i].out_features));
        out.Set(i, entry);
      }
      return out;
    });
  }

  void attach(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      idle().attach(list(info[0], "adapters", [](const Napi::Value& v, const std::string& n) {
        const auto a = object(v, n);
        return Adapter{string(get(a, "path"), n + ".path"), integer(get(a, "rank"), n + ".rank"),
                       static_cast<float>(number(get(a, "scale"), n + ".scale"))};
      }));
    });
  }

  Napi::Value read_adapters(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return to_js(info.Env(), idle().read_adapters(adapter_buffer(info[0]))); });
  }
  void write_adapters(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const auto data = floats(info[1], "data");
      idle().write_adapters(adapter_buffer(info[0]), data.data(), static_cast<int64_t>(data.size()));
    });
  }

  Napi::Value plan(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const MemoryPlan p = idle().memory_plan(latent_shape(info[0], "shape"), integer(info[1], "tokens"));
      auto out = Napi::Object::New(info.Env());
      out.Set("weights", static_cast<double>(p.weights));
      out.Set("adapters", static_cast<double>(p.adapters));
      out.Set("activations", static_cast<double>(p.activations));
      out.Set("workspace", static_cast<double>(p.workspace));
      out.Set("total", static_cast<double>(p.total()));
      return out;
    });
  }

  Napi::Value encode_text(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      return [ids = integers(info[0], "ids"), count = integer(info[1], "count"),
              skip = static_cast<int>(integer(info[2], "skip"))](Session& s) { return s.encode_text(ids, count, skip); };
    });
  }
  Napi::Value encode_images(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      return [pixels = floats(info[0], "pixels"), shape = latent_shape(info[1], "shape")](Session& s) {
        return s.encode_images(pixels, shape);
      };
    });
  }
  Napi::Value decode_latents(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      return [latents = floats(info[0], "latents"), shape = latent_shape(info[1], "shape")](Session& s) {
        return s.decode_latents(latents, shape);
      };
    });
  }
  Napi::Value predict(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      return [latents = floats(info[0], "latents"), shape = latent_shape(info[1], "shape"), timesteps = floats(info[2], "timesteps"),
              context = floats(info[3], "context")](Session& s) { return s.predict(latents, shape, timesteps, context); };
    });
  }
  Napi::Value load(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      const auto from = object(info[0], "input");
      auto data = [&](const char* name) { return floats(get(from, name), name); };
      StepInput in{latent_shape(get(from, "shape"), "shape"),
                   0,
                   data("latents"),
                   data("noise"),
                   data("coefficients"),
                   data("timesteps"),
                   data("context")};
      const int64_t width = in.shape.batch * shared_->session.unet_config().cross_attention_dim;
      in.tokens = static_cast<int64_t>(in.context.size()) / width;
      CHECK(in.tokens > 0, "INVALID_ARGUMENT", "Expected at least one token of context but received ", in.context.size(), " floats");
      return [in = std::move(in)](Session& s) { return s.load(in), Done(); };
    });
  }
  Napi::Value step(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      std::optional<AdamW> update;
      if (!info[1].IsUndefined()) update = adamw(object(info[1], "update"));
      return [weights = floats(info[0], "weights"), update](Session& s) { return s.step(weights, update ? &*update : nullptr), Done(); };
    });
  }
  Napi::Value losses(const Napi::CallbackInfo& info) {
    return start(info, [] { return [](Session& s) { return s.losses(); }; });
  }
  Napi::Value norm(const Napi::CallbackInfo& info) {
    return start(info, [] { return [](Session& s) { return s.norm(); }; });
  }

  void dispose(const Napi::CallbackInfo&) {
    if (!shared_) return;
    shared_->disposed = true;
    shared_->next();  // rejects what waits; the call in hand holds the rest until it returns
    shared_.reset();
  }

  std::shared_ptr<Shared> shared_;
};

Napi::Value info(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  auto out = Napi::Object::New(env);
  out.Set("cpu", cpu_variant());
  const auto found = cpu_features();
  auto features = Napi::Array::New(env, found.size());
  for (uint32_t i = 0; i < found.size(); i++) features.Set(i, found[i]);
  out.Set("features", features);
  out.Set("threads", std::max(1u, std::thread::hardware_concurrency()));
  auto cuda = Napi::Object::New(env);
  std::string gpu, reason;
  try {
    gpu = open_cuda_backend()->describe();
  } catch (const Error& e) {
    reason = e.what();
  }
  cuda.Set("available", reason.empty());
  cuda.Set("gpu", gpu);
  cuda.Set("reason", reason);
  out.Set("cuda", cuda);
  return out;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("Session", JsSession::define(env));
  exports.Set("info", Napi::Function::New(env, info));
  return exports;
}

}  // namespace
}  // namespace lorafuse

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return lorafuse::init(env, exports); }
NODE_API_MODULE(lorafuse, init_addon)
