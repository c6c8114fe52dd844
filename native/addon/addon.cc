// The only folder that knows Node: converts arguments once, runs work off the main thread, turns Error into a JS error with its code.
#include "../train/library.h"
#include "jobs.h"

namespace lorafuse {
namespace {

WeightEntry weight_entry(const Napi::Value& value, const std::string& name) {
  using Stored = std::pair<DType, Eight>;
  const Fields from(value, name);
  const auto [dtype, eight] = from.get("dtype", one_of<Stored>({{"F32", {DType::f32, Eight::none}},
                                                                {"F16", {DType::f16, Eight::none}},
                                                                {"BF16", {DType::bf16, Eight::none}},
                                                                {"F8_E4M3", {DType::f16, Eight::e4m3}},
                                                                {"F8_E5M2", {DType::f16, Eight::e5m2}}}));
  return {.name = from.get("name", string),
          .dtype = dtype,
          .shape = from.get("shape", shape<0>),
          .offset = static_cast<size_t>(from.get("offset", whole)),
          .eight = eight};
}

WeightFile weight_file(const Napi::Value& value, const std::string& name) {
  const Fields from(value, name);
  return {from.get("path", string), from.get("tensors", list(weight_entry))};
}

NetworkOptions network_options(const Napi::Value& value, const std::string& name) {
  using F32 = NetworkOptions::F32;
  const Fields from(value, name);
  return {.architecture = from.get("architecture", string),
          .config = from.get("config", config),
          .files = from.get("files", list(weight_file)),
          .f32 = from.has("f32") ? from.get("f32", one_of<F32>({{"activations", F32::activations}, {"all", F32::all}})) : F32::none};
}

SessionOptions::TextOptions text_options(const Napi::Value& value, const std::string& name) {
  const Fields from(value, name);
  return {from.get("network", string), {from.get("skip", whole), from.get("norm", boolean), from.get("pooled", boolean)}};
}

PlannedGpu planned_gpu(const Napi::Value& value, const std::string& name) {
  const Fields from(value, name);
  const int64_t capability = from.get("computeCapability", integer), multiprocessors = from.get("multiprocessors", integer);
  CHECK(capability >= 75 && capability < 1000, "ARGUMENT_INVALID", "Expected a compute capability of 75 or more but received ", capability);
  CHECK(multiprocessors >= 1 && multiprocessors <= 1024, "ARGUMENT_INVALID", "Expected 1 to 1024 multiprocessors but received ",
        multiprocessors);
  return {static_cast<int>(capability), static_cast<int>(multiprocessors), static_cast<size_t>(from.get("bytes", whole))};
}

SessionOptions session_options(const Napi::Value& value) {
  Fields options(value, "options");
  options.prefix = "";
  const int64_t threads = options.get("threads", integer);
  CHECK(threads >= 1 && threads <= 1024, "ARGUMENT_INVALID", "Expected 1 to 1024 threads but received ", threads);
  return {.device = options.get("device", one_of<Device>({{"cpu", Device::cpu}, {"cuda", Device::cuda}})),
          .gpu = options.has("gpu") ? std::optional(options.get("gpu", planned_gpu)) : std::nullopt,
          .threads = to_int(threads, "threads"),
          .precision = options.get("precision", one_of<DType>({{"f32", DType::f32}, {"fp16", DType::f16}, {"bf16", DType::bf16}})),
          .recompute = options.has("recompute") && options.get("recompute", boolean),
          .networks = options.get("networks", record(network_options)),
          .text = options.has("text") ? options.get("text", list(text_options)) : std::vector<SessionOptions::TextOptions>{}};
}

AdapterSpec adapter_spec(const Napi::Value& value, const std::string& name) {
  const Fields from(value, name);
  from.get("kind", one_of<bool>({{"lora", true}}));
  const int64_t group = from.get("group", integer);
  CHECK(group >= 0 && group < ParameterGroup::kMost, "ARGUMENT_INVALID", "Expected a group from 0 to ", ParameterGroup::kMost - 1, " for ",
        name, " but received ", group);
  const Lora lora{from.get("rank", integer), static_cast<float>(from.get("scale", finite))};
  return {from.get("network", string), from.get("path", string), {lora, static_cast<uint8_t>(group)}};
}

std::optional<Optimizer> optimizer(const Napi::Value& value) {
  if (value.IsUndefined()) return std::nullopt;
  const Config numbers = config(value, "optimizer");
  return make_optimizer(numbers.word("name"), numbers);
}

ParameterGroup parameter_group(const Napi::Value& value, const std::string& name) {
  const Fields from(value, name);
  return {from.get("learningRate", finite), from.get("weightDecay", finite)};
}

std::optional<Update> update(const Napi::Value& value) {
  if (value.IsUndefined()) return std::nullopt;
  Fields from(value, "update");
  from.prefix = "";
  const Update update{.groups = from.get("groups", list(parameter_group)),
                      .max_grad_norm = from.get("maxGradNorm", finite),
                      .loss_scale = from.get("lossScale", finite),
                      .step = from.get("step", integer)};
  CHECK(update.groups.size() <= ParameterGroup::kMost, "ARGUMENT_INVALID", "Expected at most ", ParameterGroup::kMost,
        " groups but received ", update.groups.size());
  CHECK(update.loss_scale > 0, "ARGUMENT_INVALID", "Expected a positive number for lossScale but received ", update.loss_scale);
  CHECK(update.step > 0, "ARGUMENT_INVALID", "Expected a positive number for step but received ", update.step);
  return update;
}

Shapes shapes(const Napi::Value& value) { return record(shape<1>)(value, "shapes"); }
Inputs inputs(const Napi::Value& value) { return record(tensor)(value, "inputs"); }
Config settings(const Napi::Value& value) { return value.IsUndefined() ? Config() : config(value, "settings"); }

// ---- the methods of a session: each converts its arguments and returns what is to be called ----

using Arguments = Napi::CallbackInfo;

auto layers(const Arguments& args) {
  return [network = string(args[0], "network")](Session& s) { return s.layers(network); };
}
auto attach(const Arguments& args) {
  return [adapters = list(adapter_spec)(args[0], "adapters"), with = optimizer(args[1])](Session& s) { return s.attach(adapters, with); };
}
auto buffers(const Arguments&) {
  return [](Session& s) { return s.buffers(); };
}
// Into the array that is given, or into a new one.
auto read(const Arguments& args) {
  return [buffer = string(args[0], "buffer"), to = args[1]](Session& s) -> Napi::Value {
    if (to.IsUndefined()) return to_js(to.Env(), s.read(buffer));
    s.read(buffer, view<float>(to, "to"));
    return to;
  };
}
auto write(const Arguments& args) {
  return [buffer = string(args[0], "buffer"), data = view<float>(args[1], "data")](Session& s) { return s.write(buffer, data), Done(); };
}
auto clear(const Arguments& args) {
  return [buffer = string(args[0], "buffer")](Session& s) { return s.clear(buffer), Done(); };
}
auto plan_step(const Arguments& args) {
  const std::optional<bool> recompute = args[1].IsUndefined() ? std::nullopt : std::optional(boolean(args[1], "recompute"));
  return [key = ProgramKey::step(shapes(args[0])), recompute](Session& s) { return s.plan(key, recompute); };
}
auto fit_step(const Arguments& args) {
  return [of = shapes(args[0]), bytes = whole(args[1], "bytes"), programs = whole(args[2], "programs")](Session& s) {
    const auto count = s.fit(of, bytes, programs);
    return count ? std::optional(static_cast<double>(*count)) : std::nullopt;
  };
}
auto describe_step(const Arguments& args) {
  return [key = ProgramKey::step(shapes(args[0]))](Session& s) { return s.describe(key); };
}
auto plan_run(const Arguments& args) {
  return [key = ProgramKey{string(args[0], "network"), string(args[1], "function"), shapes(args[2]), settings(args[3])}](Session& s) {
    return s.plan(key);
  };
}
auto speeds(const Arguments&) {
  return [](Session& s) { return s.speeds(); };
}
auto available_bytes(const Arguments&) {
  return [](Session& s) {
    const size_t bytes = s.available_bytes();
    return bytes == SIZE_MAX ? std::nullopt : std::optional(static_cast<double>(bytes));
  };
}
auto run(const Arguments& args) {
  return [network = string(args[0], "network"), function = string(args[1], "function"), in = inputs(args[2]),
          with = settings(args[3])](Session& s) { return s.run(network, function, in, with); };
}
auto prepare(const Arguments& args) {
  return [of = shapes(args[0])](Session& s) { return s.prepare(of), Done(); };
}
auto load(const Arguments& args) {
  return [batch = inputs(args[0])](Session& s) { return s.load(batch), Done(); };
}
auto step(const Arguments& args) {
  return [with = update(args[1]), weights = elements<float>(args[0], "weights")](Session& s) {
    return s.step(weights, with ? &*with : nullptr), Done();
  };
}
auto profile_step(const Arguments& args) {
  return [with = update(args[1]), weights = elements<float>(args[0], "weights")](Session& s) {
    Profile profile;
    s.step(weights, with ? &*with : nullptr, &profile);
    return profile;
  };
}
auto threads(const Arguments&) {
  return [](Session& s) { return static_cast<double>(s.threads()); };
}
auto losses(const Arguments&) {
  return [](Session& s) { return s.losses(); };
}
auto norm(const Arguments&) {
  return [](Session& s) { return s.norm(); };
}

class JsSession : public Napi::ObjectWrap<JsSession> {
 public:
  explicit JsSession(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    shared_ = guarded(info.Env(), [&] { return std::make_shared<Shared>(session_options(info[0])); });
  }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {InstanceMethod<&JsSession::now<layers>>("layers"),
                        InstanceMethod<&JsSession::now<attach>>("attach"),
                        InstanceMethod<&JsSession::now<threads>>("threads"),
                        InstanceMethod<&JsSession::now<buffers>>("buffers"),
                        InstanceMethod<&JsSession::now<read>>("read"),
                        InstanceMethod<&JsSession::now<write>>("write"),
                        InstanceMethod<&JsSession::now<clear>>("clear"),
                        InstanceMethod<&JsSession::now<plan_step>>("planStep"),
                        InstanceMethod<&JsSession::now<plan_run>>("planRun"),
                        InstanceMethod<&JsSession::now<describe_step>>("describeStep"),
                        InstanceMethod<&JsSession::now<fit_step>>("fitStep"),
                        InstanceMethod<&JsSession::now<available_bytes>>("availableBytes"),
                        InstanceMethod<&JsSession::later<speeds>>("speeds"),
                        InstanceMethod<&JsSession::later<run>>("run"),
                        InstanceMethod<&JsSession::later<prepare>>("prepare"),
                        InstanceMethod<&JsSession::later<load>>("load"),
                        InstanceMethod<&JsSession::later<step>>("step"),
                        InstanceMethod<&JsSession::later<losses>>("losses"),
                        InstanceMethod<&JsSession::later<profile_step>>("profileStep"),
                        InstanceMethod<&JsSession::later<norm>>("norm"),
                        InstanceMethod<&JsSession::dispose>("dispose")});
  }

 private:
  // Looked at after all arguments are read: a getter among them may dispose of the session.
  const std::shared_ptr<Shared>& alive() const {
    CHECK(shared_, "DISPOSED", "This session was disposed");
    return shared_;
  }

  // A method that answers at once: refused while a job runs or waits.
  template <auto method> Napi::Value now(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const auto call = method(info);
      const auto shared = alive();
      CHECK(!shared->running && shared->waiting.empty(), "BUSY", "Expected no call in progress on this session: await it first");
      return to_js(info.Env(), call(shared->session));
    });
  }

  // A method that is queued; what is wrong with its arguments rejects the promise.
  template <auto method> Napi::Value later(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    // Trap: only what settles a deferred frees it.
    const auto rejected = [&](Napi::Value reason) -> Napi::Value {
      const auto deferred = Napi::Promise::Deferred::New(env);
      deferred.Reject(reason);
      return deferred.Promise();
    };
    try {
      auto call = method(info);
      const auto shared = alive();
      auto job = std::make_unique<Job>(env, shared, [call = std::move(call)](Session& session) -> Job::Result {
        return [result = call(session)](Napi::Env env) { return to_js(env, result); };
      });
      const auto promise = job->promise();
      shared->waiting.push_back(job.get());
      job.release();
      shared->next();
      return promise;
    } catch (const Napi::Error& error) { return rejected(error.Value()); } catch (...) {
      return rejected(js_error(env, failure()).Value());
    }
  }

  void dispose(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const auto shared = std::exchange(shared_, nullptr);
      if (!shared) return;
      shared->disposed = true;
      shared->next();  // rejects what waits; the running call keeps the session until it returns
    });
  }

  std::shared_ptr<Shared> shared_;
};

Napi::Value info(const Napi::CallbackInfo& call) {
  return guarded(call.Env(), [&]() -> Napi::Value {
    const Napi::Env env = call.Env();
    auto out = Napi::Object::New(env), cuda = Napi::Object::New(env);
    out.Set("cpu", cpu_variant());
    out.Set("cpuBf16", cpu_variant(DType::bf16));
    const auto found = cpu_features();
    auto features = Napi::Array::New(env, found.size());
    for (uint32_t i = 0; i < found.size(); i++) features.Set(i, found[i]);
    out.Set("features", features);
    std::string gpu, reason;
    try {
      gpu = open_cuda_backend()->describe();
    } catch (const Error& e) { reason = e.what(); }
    cuda.Set("available", reason.empty());
    cuda.Set("gpu", gpu);
    cuda.Set("reason", reason);
    out.Set("cuda", cuda);
    return out;
  });
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
