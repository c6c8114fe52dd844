// The only folder that knows Node: converts arguments once, runs work off the main thread, turns Error into a JS error with its code.
#include "../train/library.h"
#include "jobs.h"

namespace lorafuse {
namespace {

WeightFile weight_file(const Napi::Value& value, const std::string& name) {
  const auto file = object(value, name);
  return {string(get(file, "path"), name + ".path"),
          list(get(file, "tensors"), name + ".tensors", [](const Napi::Value& v, const std::string& n) {
            const auto entry = object(v, n);
            return WeightEntry{.name = string(get(entry, "name"), n + ".name"),
                               .dtype = one_of<DType>(get(entry, "dtype"), n + ".dtype",
                                                      {{"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16}}),
                               .shape = Shape(list(get(entry, "shape"), n + ".shape", integer)),
                               .offset = static_cast<size_t>(integer(get(entry, "offset"), n + ".offset"))};
          })};
}

NetworkOptions network_options(const Napi::Value& value, const std::string& name) {
  const auto from = object(value, name);
  const Napi::Value f32 = get(from, "f32");
  return {.architecture = string(get(from, "architecture"), name + ".architecture"),
          .config = config(get(from, "config"), name + ".config"),
          .files = list(get(from, "files"), name + ".files", weight_file),
          .f32 = !f32.IsUndefined() && boolean(f32, name + ".f32")};
}

SessionOptions session_options(const Napi::Value& value) {
  const auto options = object(value, "options");
  const int64_t threads = integer(get(options, "threads"), "threads");
  CHECK(threads >= 1 && threads <= 1024, "ARGUMENT_INVALID", "Expected 1 to 1024 threads but received ", threads);
  return {.device = one_of<Device>(get(options, "device"), "device", {{"cpu", Device::cpu}, {"cuda", Device::cuda}}),
          .threads = static_cast<int>(threads),
          .precision =
              one_of<DType>(get(options, "precision"), "precision", {{"f32", DType::f32}, {"fp16", DType::f16}, {"bf16", DType::bf16}}),
          .networks = record(get(options, "networks"), "networks", network_options)};
}

AdapterSpec adapter_spec(const Napi::Value& value, const std::string& name) {
  const auto from = object(value, name);
  one_of<bool>(get(from, "kind"), name + ".kind", {{"lora", true}});
  const int64_t group = integer(get(from, "group"), name + ".group");
  CHECK(group >= 0 && group < ParameterGroup::kMost, "ARGUMENT_INVALID", "Expected a group from 0 to ", ParameterGroup::kMost - 1, " for ",
        name, " but received ", group);
  const Lora lora{integer(get(from, "rank"), name + ".rank"), static_cast<float>(finite(get(from, "scale"), name + ".scale"))};
  return {string(get(from, "network"), name + ".network"), string(get(from, "path"), name + ".path"), {lora, static_cast<uint8_t>(group)}};
}

std::optional<Optimizer> optimizer(const Napi::Value& value) {
  if (value.IsUndefined()) return std::nullopt;
  const Config numbers = config(value, "optimizer");
  return make_optimizer(numbers.word("name"), numbers);
}

Update update_of(const Napi::Value& value) {
  const auto from = object(value, "update");
  const Update update{.groups = list(get(from, "groups"), "groups",
                                     [](const Napi::Value& v, const std::string& n) {
                                       const auto group = object(v, n);
                                       return ParameterGroup{finite(get(group, "learningRate"), n + ".learningRate"),
                                                             finite(get(group, "weightDecay"), n + ".weightDecay")};
                                     }),
                      .max_grad_norm = finite(get(from, "maxGradNorm"), "maxGradNorm"),
                      .loss_scale = finite(get(from, "lossScale"), "lossScale"),
                      .step = integer(get(from, "step"), "step")};
  CHECK(update.groups.size() <= ParameterGroup::kMost, "ARGUMENT_INVALID", "Expected at most ", ParameterGroup::kMost,
        " groups but received ", update.groups.size());
  CHECK(update.loss_scale > 0, "ARGUMENT_INVALID", "Expected a positive number for lossScale but received ", update.loss_scale);
  CHECK(update.step > 0, "ARGUMENT_INVALID", "Expected a positive number for step but received ", update.step);
  return update;
}

Shapes shapes(const Napi::Value& value) { return record(value, "shapes", shape); }
Config settings(const Napi::Value& value) { return value.IsUndefined() ? Config() : config(value, "settings"); }

class JsSession : public Napi::ObjectWrap<JsSession> {
 public:
  explicit JsSession(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    shared_ = guarded(info.Env(), [&] { return std::make_shared<Shared>(session_options(info[0])); });
  }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Session",
        {InstanceMethod<&JsSession::layers>("layers"), InstanceMethod<&JsSession::attach>("attach"),
         InstanceMethod<&JsSession::buffers>("buffers"), InstanceMethod<&JsSession::read>("read"),
         InstanceMethod<&JsSession::write>("write"), InstanceMethod<&JsSession::plan_step>("planStep"),
         InstanceMethod<&JsSession::plan_run>("planRun"), InstanceMethod<&JsSession::available_bytes>("availableBytes"),
         InstanceMethod<&JsSession::run>("run"), InstanceMethod<&JsSession::prepare>("prepare"), InstanceMethod<&JsSession::load>("load"),
         InstanceMethod<&JsSession::step>("step"), InstanceMethod<&JsSession::losses>("losses"), InstanceMethod<&JsSession::norm>("norm"),
         InstanceMethod<&JsSession::dispose>("dispose")});
  }

 private:
  // The session for a call that answers at once: refused while a job runs or waits.
  Session& idle() {
    alive();
    CHECK(!shared_->running && shared_->waiting.empty(), "BUSY", "Expected no call in progress on this session: await it first");
    return shared_->session;
  }
  void alive() const { CHECK(shared_, "DISPOSED", "This session was disposed"); }

  // Queues the work that `convert` makes of the arguments; what they lack rejects the promise.
  template <class Convert> Napi::Value start(const Napi::CallbackInfo& info, Convert convert) {
    const Napi::Env env = info.Env();
    try {
      auto work = convert();
      alive();  // after the arguments: a getter among them may have disposed of the session
      auto* job = new JobOf<decltype(work)>(env, shared_, std::move(work));
      const auto promise = job->promise();
      shared_->waiting.push_back(job);
      shared_->next();
      return promise;
    } catch (const Napi::Error&) { throw; } catch (...) {
      const Failure why = failure();
      const auto rejected = Napi::Promise::Deferred::New(env);
      rejected.Reject(js_error(env, why).Value());
      return rejected.Promise();
    }
  }

  Napi::Value layers(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const std::string network = string(info[0], "network");
      return to_js(info.Env(), idle().layers(network), [](Napi::Object& entry, const Layer& layer) {
        entry.Set("path", layer.path);
        entry.Set("kind", layer.is_conv ? "conv" : "linear");
        entry.Set("inFeatures", static_cast<double>(layer.in_features));
        entry.Set("outFeatures", static_cast<double>(layer.out_features));
      });
    });
  }

  Napi::Value attach(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto adapters = list(info[0], "adapters", adapter_spec);
      const auto with = optimizer(info[1]);
      return to_js(info.Env(), idle().attach(adapters, with), [&](Napi::Object& entry, const Parameter& parameter) {
        entry.Set("network", parameter.network);
        entry.Set("name", parameter.name);
        entry.Set("shape", to_js(info.Env(), parameter.shape));
        entry.Set("group", static_cast<double>(parameter.group));
      });
    });
  }

  Napi::Value buffers(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return to_js(info.Env(), idle().buffers(), [](Napi::Object& entry, const BufferSpec& buffer) {
        entry.Set("name", buffer.name);
        entry.Set("dtype", "F32");
        entry.Set("count", static_cast<double>(buffer.count));
      });
    });
  }

  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const std::string buffer = string(info[0], "buffer");
      return to_js(info.Env(), idle().read(buffer));
    });
  }
  void write(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const std::string buffer = string(info[0], "buffer");
      const auto data = elements<float>(info[1], "data");
      idle().write(buffer, data);
    });
  }

  Napi::Value plan(const Napi::CallbackInfo& info, const ProgramKey& key) {
    const MemoryPlan p = idle().plan(key);
    auto out = Napi::Object::New(info.Env());
    out.Set("weights", static_cast<double>(p.weights));
    out.Set("mapped", static_cast<double>(p.mapped));
    out.Set("adapters", static_cast<double>(p.adapters));
    out.Set("activations", static_cast<double>(p.activations));
    out.Set("workspace", static_cast<double>(p.workspace));
    out.Set("total", static_cast<double>(p.total()));
    return out;
  }
  Napi::Value plan_step(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return plan(info, ProgramKey::step(shapes(info[0]))); });
  }
  Napi::Value plan_run(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return plan(info, {string(info[0], "network"), string(info[1], "function"), shapes(info[2]), settings(info[3])});
    });
  }
  Napi::Value available_bytes(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const size_t bytes = idle().available_bytes();
      return bytes == SIZE_MAX ? info.Env().Undefined() : Napi::Number::New(info.Env(), static_cast<double>(bytes));
    });
  }

  Napi::Value run(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      return [network = string(info[0], "network"), function = string(info[1], "function"), inputs = record(info[2], "inputs", tensor),
              with = settings(info[3])](Session& s) { return s.run(network, function, inputs, with); };
    });
  }
  Napi::Value prepare(const Napi::CallbackInfo& info) {
    return start(info, [&] { return [of = shapes(info[0])](Session& s) { return s.prepare(of), Done(); }; });
  }
  Napi::Value load(const Napi::CallbackInfo& info) {
    return start(info, [&] { return [inputs = record(info[0], "inputs", tensor)](Session& s) { return s.load(inputs), Done(); }; });
  }
  Napi::Value step(const Napi::CallbackInfo& info) {
    return start(info, [&] {
      std::optional<Update> update;
      if (!info[1].IsUndefined()) update = update_of(info[1]);
      return [weights = elements<float>(info[0], "weights"), update](Session& s) {
        return s.step(weights, update ? &*update : nullptr), Done();
      };
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
    shared_->next();  // rejects what waits; the running call keeps the session until it returns
    shared_.reset();
  }

  std::shared_ptr<Shared> shared_;
};

Napi::Value info(const Napi::CallbackInfo& call) {
  return guarded(call.Env(), [&]() -> Napi::Value {
    const Napi::Env env = call.Env();
    auto out = Napi::Object::New(env), cuda = Napi::Object::New(env);
    out.Set("cpu", cpu_variant());
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
