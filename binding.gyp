{
  # For tools that look for this file (npm rebuild, electron-rebuild); CMakeLists.txt is what builds.
  "targets": [{
    "target_name": "cmake",
    "type": "none",
    "actions": [{
      "action_name": "build_native",
      "inputs": ["CMakeLists.txt"],
      "outputs": ["<(module_root_dir)/build/Release/lorafuse.node"],
      "action": ["node", "<(module_root_dir)/scripts/build-native.js"]
    }]
  }]
}
