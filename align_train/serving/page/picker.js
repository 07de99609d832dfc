// Chooses images: from files, by dropping or pasting them, from the examples, or from the camera.
// They stay in the page, and travel with each question as data URLs; the server keeps no file.
// Gradio calls this once with `element`, `props`, `trigger`, and never renders the template anew.

const find = (name) => element.querySelector(`.${name}`);
const input = find("picker-input");
const video = find("picker-video");
input.multiple = props.multiple;

function say(text) {
  find("picker-message").textContent = text;
  find("picker-message").hidden = !text;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function set(images) {
  props.value = images;
  draw(images);
  trigger("input");
}

function add(image) {
  const images = props.multiple ? [...(props.value || []), image] : [image];
  if (images.length > props.max_images) {
    say(`At most ${props.max_images} images at once.`);
    return;
  }
  set(images);
}

function draw(images) {
  const list = find("picker-images");
  list.replaceChildren();
  images.forEach((image, index) => {
    const item = document.createElement("li");
    const shown = document.createElement("img");
    shown.src = image.data;
    shown.alt = image.name;
    shown.title = image.name;
    // The browser cannot show every kind that the server can read.
    shown.onerror = () => shown.replaceWith(Object.assign(document.createElement("span"), {textContent: image.name}));
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.title = "Remove";
    remove.setAttribute("aria-label", `Remove ${image.name}`);
    remove.onclick = () => {
      say("");
      set(props.value.filter((_, other) => other !== index));
      find("picker-choose").focus();
    };
    item.append(shown, remove);
    list.append(item);
  });
  element.querySelector(".picker").classList.toggle("picker-filled", images.length > 0);
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function take(files) {
  say("");
  for (const file of props.multiple ? files : files.slice(0, 1)) {
    // As text, an image has a third more characters than bytes.
    const others = props.multiple ? props.value || [] : [];
    const taken = others.reduce((sum, image) => sum + image.data.length, 0);
    const left = Math.floor(((props.max_characters - taken) * 3) / 4);
    if (file.size > left) {
      const beside = taken ? " beside the others" : "";
      say(`${file.name} has ${megabytes(file.size)}; at most ${megabytes(Math.max(0, left))}${beside}.`);
      continue;
    }
    try {
      add({name: file.name, data: await read(file)});
    } catch (error) {
      say(`${file.name} cannot be read.`);
    }
  }
}

find("picker-choose").onclick = () => input.click();
input.onchange = async () => {
  await take([...input.files]);
  input.value = ""; // the same file may be chosen again
};

const area = element.querySelector(".picker");
area.ondragover = (event) => {
  event.preventDefault();
  area.classList.add("picker-over");
};
area.ondragleave = () => area.classList.remove("picker-over");
area.ondrop = (event) => {
  event.preventDefault();
  area.classList.remove("picker-over");
  take([...event.dataTransfer.files]);
};
document.addEventListener("paste", (event) => {
  const isShown = element.offsetParent !== null;
  const files = [...(event.clipboardData?.files || [])];
  if (isShown && files.length) take(files);
});

for (const example of props.examples) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = example.name;
  const shown = Object.assign(document.createElement("img"), {src: example.data, alt: example.name});
  button.append(shown);
  button.onclick = () => {
    say("");
    add(example);
  };
  find("picker-examples").append(button);
}
find("picker-examples").hidden = !props.examples.length;

let stream = null;

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  find("picker-camera").hidden = true;
}

find("picker-start").onclick = async () => {
  say("");
  if (!navigator.mediaDevices) {
    say("The browser gives the camera only to localhost and https pages.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    say("No camera: there is none, or the browser may not use it.");
    return;
  }
  video.srcObject = stream;
  find("picker-camera").hidden = false;
  find("picker-take").focus();
};
find("picker-take").onclick = () => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  add({name: "camera", data: canvas.toDataURL("image/png")});
};
find("picker-stop").onclick = stop;

draw(props.value || []);
