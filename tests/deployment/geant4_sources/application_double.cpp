// A double of Geant4 that runs the example application: boxes in boxes, and particles that fly straight on to the envelope, where its
// models are asked. Nothing is tracked, so an event holds what the models answer.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <G4Event.hh>
#include <G4EventManager.hh>
#include <G4FastSimulationPhysics.hh>
#include <G4LogicalVolume.hh>
#include <G4Navigator.hh>
#include <G4NistManager.hh>
#include <G4PVPlacement.hh>
#include <G4ParticleGun.hh>
#include <G4ParticleTable.hh>
#include <G4RunManagerFactory.hh>
#include <G4SDManager.hh>
#include <G4TouchableHistory.hh>
#include <G4TransportationManager.hh>
#include <G4UserEventAction.hh>
#include <G4VFastSimulationModel.hh>
#include <G4VSensitiveDetector.hh>
#include <G4VUserActionInitialization.hh>
#include <G4VUserDetectorConstruction.hh>
#include <G4VUserPrimaryGeneratorAction.hh>
#include <Randomize.hh>

namespace {

struct Host {
    G4VUserDetectorConstruction* detector = nullptr;
    G4VUserPrimaryGeneratorAction* primaries = nullptr;
    G4UserEventAction* events = nullptr;
    G4VPhysicalVolume* world = nullptr;
    G4LogicalVolume* envelope = nullptr;
    std::vector<G4VSensitiveDetector*> detectors;
    std::vector<G4VFastSimulationModel*> models;
    std::set<std::string> asked_about;
    std::map<std::string, std::unique_ptr<G4ParticleDefinition>> particles;
    bool physics = false;
    const G4ParticleDefinition* definition = nullptr;
    double energy = 0;
    G4ThreeVector direction, position;
} host;

class Manager : public G4RunManager {};

bool inside(const G4VPhysicalVolume* volume, const G4ThreeVector& p) {
    G4ThreeVector low, high;
    volume->GetLogicalVolume()->GetSolid()->BoundingLimits(low, high);
    return low.x() <= p.x() && p.x() <= high.x() && low.y() <= p.y() && p.y() <= high.y() && low.z() <= p.z() && p.z() <= high.z();
}

// The deepest volume at a point of the frame of `volume`.
G4VPhysicalVolume* deepest(G4VPhysicalVolume* volume, const G4ThreeVector& p) {
    if (!inside(volume, p)) return nullptr;
    for (G4VPhysicalVolume* daughter : volume->GetLogicalVolume()->daughters)
        if (G4VPhysicalVolume* found = deepest(daughter, p - daughter->GetTranslation())) return found;
    return volume;
}

void fly() {
    const G4VPhysicalVolume* placed = nullptr;
    for (const G4VPhysicalVolume* daughter : host.world->GetLogicalVolume()->daughters)
        if (daughter->GetLogicalVolume() == host.envelope) placed = daughter;
    G4ThreeVector low, high;
    host.envelope->GetSolid()->BoundingLimits(low, high);
    const double depth = placed->GetTranslation().z() + low.z() - host.position.z();
    const G4DynamicParticle dynamic(host.definition, host.direction, host.energy);
    const G4Track track(&dynamic, host.position + (depth / host.direction.z()) * host.direction, 1.0, 1);
    const G4ThreeVector there = placed->GetTranslation();
    const G4AffineTransform to_world({1, 0, 0}, {0, 1, 0}, {0, 0, 1}, there), to_local({1, 0, 0}, {0, 1, 0}, {0, 0, 1}, -1 * there);
    const G4FastTrack fast(&track, host.envelope->GetSolid(), to_local, to_world);
    for (G4VFastSimulationModel* model : host.models)
        if (model->IsApplicable(*host.definition) && model->ModelTrigger(fast)) {
            G4FastStep step;
            model->DoIt(fast, step);
        }
}

}  // namespace

void CLHEP::HepRandom::setTheSeed(long, int) {}
G4NistManager* G4NistManager::Instance() {
    static G4NistManager manager;
    return &manager;
}
G4Material* G4NistManager::FindOrBuildMaterial(const G4String&) {
    static G4Material material;
    return &material;
}
G4PVPlacement::G4PVPlacement(G4RotationMatrix*, const G4ThreeVector& where, G4LogicalVolume* logical, const G4String&, G4LogicalVolume* mother,
                             G4bool, G4int number)
    : G4VPhysicalVolume(logical, where, number) {
    if (mother) mother->daughters.push_back(this);
}
G4Region::G4Region(const G4String&) {}
G4FastSimulationManager* G4Region::GetFastSimulationManager() const { return nullptr; }
void G4Region::AddRootLogicalVolume(G4LogicalVolume* volume, G4bool) { host.envelope = volume; }
G4VFastSimulationModel::G4VFastSimulationModel(const G4String& name) : name_(name) {}
G4VFastSimulationModel::G4VFastSimulationModel(const G4String& name, G4Envelope*, G4bool) : name_(name) { host.models.push_back(this); }
void G4FastStep::KillPrimaryTrack() { status_ = 2; }
G4EventManager* G4EventManager::GetEventManager() {
    static G4EventManager manager;
    return &manager;
}
G4SDManager* G4SDManager::GetSDMpointer() {
    static G4SDManager manager;
    return &manager;
}
void G4SDManager::AddNewDetector(G4VSensitiveDetector* detector) { host.detectors.push_back(detector); }
void G4VUserDetectorConstruction::SetSensitiveDetector(G4LogicalVolume* volume, G4VSensitiveDetector* detector) {
    volume->SetSensitiveDetector(detector);
}
void G4VUserActionInitialization::SetUserAction(G4VUserPrimaryGeneratorAction* action) const { host.primaries = action; }
void G4VUserActionInitialization::SetUserAction(G4UserEventAction* action) const { host.events = action; }
G4ParticleTable* G4ParticleTable::GetParticleTable() {
    static G4ParticleTable table;
    return &table;
}
G4ParticleDefinition* G4ParticleTable::FindParticle(const G4String& name) {
    static const std::map<std::string, int> known{{"gamma", 22}, {"e-", 11}, {"e+", -11}, {"pi0", 111}};
    if (!host.physics || !known.count(name)) return nullptr;  // particles come with the physics list
    auto& particle = host.particles[name];
    if (!particle) particle = std::make_unique<G4ParticleDefinition>(known.at(name));
    return particle.get();
}
void G4ParticleGun::GeneratePrimaryVertex(G4Event*) {
    host.definition = definition_, host.energy = energy_, host.direction = direction_, host.position = position_;
}
void G4VModularPhysicsList::RegisterPhysics(G4VPhysicsConstructor*) {}
void G4FastSimulationPhysics::ActivateFastSimulation(const G4String& particle, const G4String&) { host.asked_about.insert(particle); }
void G4Navigator::LocateGlobalPointAndUpdateTouchable(const G4ThreeVector& point, G4VTouchable* touchable, const G4bool) {
    dynamic_cast<G4TouchableHistory&>(*touchable).volume = deepest(world_, point);
}
G4TransportationManager* G4TransportationManager::GetTransportationManager() {
    static G4TransportationManager manager;
    return &manager;
}
G4Navigator* G4TransportationManager::GetNavigatorForTracking() const {
    static G4Navigator navigator;
    navigator.SetWorldVolume(host.world);
    return &navigator;
}
G4RunManager* G4RunManagerFactory::CreateRunManager(G4RunManagerType) { return new Manager; }
void G4RunManager::SetUserInitialization(G4VUserDetectorConstruction* detector) { host.detector = detector; }
void G4RunManager::SetUserInitialization(G4VUserPhysicsList*) { host.physics = true; }
void G4RunManager::SetUserInitialization(G4VUserActionInitialization* actions) { actions->Build(); }
void G4RunManager::Initialize() {
    host.world = host.detector->Construct();
    host.detector->ConstructSDandField();
}
void G4RunManager::BeamOn(G4int events, const char*, G4int) {
    for (int number = 0; number < events; ++number) {
        G4Event event(number);
        G4EventManager::GetEventManager()->event_ = &event;
        for (G4VSensitiveDetector* detector : host.detectors) detector->Initialize(nullptr);
        host.primaries->GeneratePrimaries(&event);
        for (const auto& [name, particle] : host.particles)
            if (particle.get() == host.definition && host.asked_about.count(name)) fly();
        host.events->EndOfEventAction(&event);
        G4EventManager::GetEventManager()->event_ = nullptr;
    }
}
